"""`make bench NAME=train`: how fast the default recipe trains, beside the same script under `torchrun` and unpacked.

Tokens are those of the rows, padding aside. A pack holds the tools that its rows share once, which is less to compute
for the same rows: so packed and padded are compared by the rows' own tokens, as if each stood alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import conclude, paired
from benchmarks.clusters import ROOT
from cluster.settings import Strict
from pipelines.recipe import TrainingSettings


class Told(Strict):
    """What a contender trains."""

    dataset: Path
    model: str
    training: TrainingSettings


def ours(told: Told) -> dict[str, float]:
    """The product's own step: driver, Ray Train, clock, reports. It shares its machine with nobody."""
    from pipelines.train import Job, fit

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "version").mkdir()
        job = Job(dataset=str(told.dataset), base="seed", model=told.model, parent=None, training=told.training)
        metrics = fit(job, place / "work", place / "version").metrics
    return {"tokens_per_s": metrics["tokens_per_s"], "rows_tokens_per_s": metrics["tokens_per_s"] * metrics["packing"]}


def torchrun(told: Told) -> dict[str, float]:
    from pipelines.train import WORKER_ENVIRONMENT, allocator

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run(
        [*command, "-m", "benchmarks.sft"],
        input=told.model_dump_json(),
        env={**os.environ, **WORKER_ENVIRONMENT, **allocator(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the script under torchrun failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80, help="of each contender in each round")
    asked = parser.parse_args()

    import ray

    from benchmarks.training import rows
    from pipelines.train import resolve

    ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    seen: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows(Path(folder))
        training = TrainingSettings(max_steps=asked.steps, max_seconds=None)
        packed = Told(dataset=Path(folder) / "dataset", model=resolve("seed"), training=training)
        padded = packed.model_copy(update={"training": training.model_copy(update={"packing": False})})
        contenders: dict[str, Any] = {
            "ours": lambda: ours(packed),
            "torchrun": lambda: torchrun(packed),
            "padded": lambda: ours(padded),
        }
        for round_ in range(asked.rounds):
            for name, run in contenders.items():
                seen.setdefault(name, []).append(run())
                print(f"round {round_ + 1}, {name}: {seen[name][-1]['tokens_per_s']:.0f} tokens/s", flush=True)
    for name, each in seen.items():
        print(f"{name:<10}{statistics.median(one['tokens_per_s'] for one in each):8.0f} tokens/s")
    column = {name: [one["tokens_per_s"] for one in each] for name, each in seen.items()}
    rows_of = {name: [one["rows_tokens_per_s"] for one in seen[name]] for name in ("ours", "padded")}
    conclude(
        runs=asked.rounds,
        tokens_per_s_vs_torchrun=paired(column["ours"], column["torchrun"]),
        packed_vs_padded=paired(rows_of["ours"], rows_of["padded"]),
    )


if __name__ == "__main__":
    main()
