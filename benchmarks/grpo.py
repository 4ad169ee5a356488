"""`make bench NAME=grpo`: does reinforcement raise the reward of a task that can be checked? The curve is a plot.

Two cycles on the seed model's own kind of traffic, over the product's command line: a short SFT from examples, so that
some answers are right, and then the recipe `grpo`, whose reward is the scorer's and whose answers come from the served
model. The gate measures champion and candidate on requests that neither was trained on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

from benchmarks import conclude
from benchmarks.clusters import ROOT, Cluster, cluster

ROWS = 800
SFT_STEPS = 24
"""Few: what is rewarded always, or never, has nothing to learn from."""
STEPS = 60
WINDOW = 5
"""Steps whose rewards are averaged at both ends of the curve: one step has 64 answers to 8 prompts."""


def examples(traffic: Path, out: Path) -> None:
    """Requests and the calls that they mean, as a fine-tuning file; the tools are those of all of them."""
    wishes = [json.loads(line) for line in (traffic / "train.jsonl").read_text().splitlines()]
    named: dict[str, dict[str, Any]] = {}
    for wish in wishes:
        named.setdefault(wish["tool"], {}).update({key: {"type": "string"} for key in wish["arguments"]})
    tools = [_function(name=name, parameters={"type": "object", "properties": named[name]}) for name in sorted(named)]
    with out.open("w") as file:
        for wish in wishes:
            call = {"id": "call_0"} | _function(name=wish["tool"], arguments=json.dumps(wish["arguments"]))
            answer = {"role": "assistant", "content": None, "tool_calls": [call]}
            print(
                json.dumps({"messages": [{"role": "user", "content": wish["text"]}, answer], "tools": tools}), file=file
            )


def _function(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


def cycle(made: Cluster, recipe: str, training: dict[str, Any]) -> dict[str, Any]:
    """Turn once with a shipped recipe whose training is changed; the run's record."""
    settings = yaml.safe_load((ROOT / "pipelines" / "recipes" / f"{recipe}.yaml").read_text())
    settings["training"] = {**settings.get("training", {}), **training}
    file = made.settings.state / f"{recipe}.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    run(made, "cycle", "--recipe", str(file))
    records = [json.loads(path.read_text()) for path in (made.settings.state / "runs").glob("*/run.json")]
    return max(records, key=lambda record: record["started"])


def run(made: Cluster, *arguments: str) -> None:
    done = made.trivium(*arguments)
    if done.returncode:
        raise RuntimeError(f"trivium {' '.join(arguments)}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def rewards(made: Cluster, record: dict[str, Any]) -> list[float]:
    """Mean reward of each step's answers."""
    told = json.loads((made.settings.state / record["steps"]["train"]["folder"] / "manifest.json").read_text())
    return [entry["reward"] for entry in told["history"] if "reward" in entry]


def plot(curve: list[float], out: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    steps = range(1, len(curve) + 1)
    smooth = [statistics.fmean(curve[max(0, at - WINDOW + 1) : at + 1]) for at in range(len(curve))]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(steps, curve, ".", color="0.7", label="one step")
    axes.plot(steps, smooth, label=f"mean of {WINDOW} steps")
    axes.set(xlabel="step", ylabel="reward", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: to see that it works")
    parser.add_argument("--out", type=Path, default=Path("grpo.svg"), help="where the curve is drawn")
    given = parser.parse_args()
    steps = 6 if given.quick else STEPS
    with cluster() as made:
        print(made.up(), flush=True)
        traffic, file = made.settings.state / "traffic", made.settings.state / "examples.jsonl"
        run(made, "seed", "traffic", "--out", str(traffic), "--train", str(ROWS), "--validate", "1")
        examples(traffic, file)
        run(made, "log", "import", str(file))
        first = cycle(made, "default", {"max_steps": SFT_STEPS, "min_steps": 0, "max_seconds": None})
        run(made, "promote", first["candidate"])
        print(f"SFT, {SFT_STEPS} steps: {first['verdict']['candidate_score']:.3f} on the holdout", flush=True)
        second = cycle(made, "grpo", {"max_steps": steps, "epochs": 100, "max_seconds": None})
        curve = rewards(made, second)
    for step, reward in enumerate(curve, 1):
        print(f"step {step:>3}  {reward:.3f}  {'#' * round(50 * reward)}")
    plot(curve, given.out)
    verdict = second["verdict"]
    print(f"the curve is in {given.out}")
    conclude(
        runs=1,
        reward_first=statistics.fmean(curve[:WINDOW]),
        reward_last=statistics.fmean(curve[-WINDOW:]),
        champion_score=verdict["champion_score"],
        candidate_score=verdict["candidate_score"],
        gain_low=verdict["gain_low"],
    )


if __name__ == "__main__":
    main()
