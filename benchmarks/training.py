"""A training on a benchmark's cluster that never ends by itself: `python -m benchmarks.training` reads a `Told` (JSON).

It is the product's own (`pipelines.train.fit`): driver, workers, steps, on rows of the seed model's generator. What it
has trained on its worker says on the machine's board (`cluster/pressure.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.clusters import ROOT, Cluster
from cluster import pressure
from cluster.arbiter import Sharing
from cluster.environment import environment
from cluster.pressure import Node, Trainer
from cluster.settings import Strict
from pipelines.recipe import TrainingSettings

ROWS = 3000
START_S = 300
"""Longest that a worker may take until it has trained on its first tokens."""


class Told(Strict):
    """What the process is told."""

    folder: Path
    """For the rows and the checkpoints."""
    training: TrainingSettings


def endless(sharing: Sharing, min_workers: int) -> TrainingSettings:
    """The default recipe's steps, and more of them than any benchmark waits for."""
    return TrainingSettings(
        epochs=200, mention_replacement=0, max_seconds=None, min_workers=min_workers, sharing=sharing
    )


@dataclass
class Training:
    """A training that is under way."""

    node: Node
    driver: subprocess.Popen[bytes]
    others: set[int]
    """Workers that were there before: another training's."""

    def worker(self) -> Trainer | None:
        return next((each for each in self.node.trainers() if each.process not in self.others), None)

    def tokens(self) -> int:
        found = self.worker()
        return found.tokens if found else 0

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(found.process)] if (found := self.worker()) else []


@contextmanager
def running(made: Cluster, name: str, training: TrainingSettings) -> Iterator[Training]:
    """Under way within the block: its worker has trained on something."""
    folder, node = made.settings.state / name, Node(pressure.path(made.settings))
    folder.mkdir()
    others = {each.process for each in node.trainers()}
    variables = {**made.variables, **environment(made.settings), "PYTHONPATH": str(ROOT)}
    with open(folder / "log", "wb") as log:
        command = [sys.executable, "-m", "benchmarks.training"]
        driver = subprocess.Popen(
            command, env=variables, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    assert driver.stdin
    driver.stdin.write(Told(folder=folder, training=training).model_dump_json().encode())
    driver.stdin.close()
    found = Training(node, driver, others)
    try:
        _wait(found, folder / "log")
        yield found
    finally:
        driver.send_signal(signal.SIGINT)
        for process in found.processes():
            process.resume()
        try:
            driver.wait(30)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()


def _wait(training: Training, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and training.driver.poll() is None:
        if training.tokens():
            return
        time.sleep(0.2)
    raise RuntimeError(f"the training does not begin: {log.read_text(errors='replace')[-3000:]}")


def rows(folder: Path) -> None:
    """Rows as `curate` would write them, from the seed model's generator."""
    from pipelines.replay import replay
    from pipelines.rows import columns, write

    (folder / "dataset").mkdir()
    made = replay(folder, {"from": "seed"}, ROWS, set(), seed=0)
    write(folder / "dataset" / "train" / "part.parquet", [columns(row) for row in made])


def main() -> None:
    told = Told.model_validate_json(sys.stdin.read())
    from cluster.settings import Settings
    from pipelines.cycle import connect
    from pipelines.elastic import Ground
    from pipelines.train import Job, fit, resolve

    settings = Settings.from_environment()
    os.environ.update(environment(settings))
    rows(told.folder)
    connect(settings)
    work = told.folder / "work"
    job = Job(
        dataset=str(told.folder / "dataset"),
        base="seed",
        model=resolve("seed"),
        parent=None,
        training=told.training,
        ground=Ground.of(settings, work),
    )
    fit(job, work, told.folder, lambda moves: print(moves[-1], flush=True))


if __name__ == "__main__":
    main()
