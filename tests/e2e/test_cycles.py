"""Cycles that must not go well, and cycles that are cut off: on the cluster that the demo left."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.client import Client
from demo import traffic
from tests.conftest import Cluster
from tests.e2e.conftest import Shown
from tests.e2e.using import Load, answers, client, example, recipe, runs
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Shuffle:
    """What a cycle on shuffled corrections came to, which was killed once in its training."""

    killed: dict[str, Any]
    """Its record when it was killed."""
    ended: dict[str, Any]
    load: Load
    """Live requests during all of it."""


@pytest.fixture(scope="module")
def shuffle(shown: Shown, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Shuffle:
    """Requests of the demo once more, with the calls of others as corrections; the holdout holds the true ones."""
    folder = tmp_path_factory.mktemp("shuffled")
    given = traffic.read(shown.out / "traffic")
    asked = given.train[:240]
    calls = [{"name": wish.tool, "arguments": wish.arguments} for wish in asked]
    random.Random(0).shuffle(calls)
    pairs = enumerate(zip(asked, calls, strict=True))
    lines = [example(wish.text, call, given.tools, f"shuffled-{at // 4}") for at, (wish, call) in pairs]
    (folder / "shuffled.jsonl").write_text("\n".join(lines))
    cluster.trivium("log", "import", str(folder / "shuffled.jsonl"))
    file = recipe(
        folder / "recipe.yaml",
        window={"max_records": len(lines)},  # the newest: only the shuffled ones
        # The load never pauses: making way for it, the training would take four times as long.
        training={"max_seconds": 15, "checkpoint_every_s": 5, "sharing": {"pause": "never"}},
    )
    with Load(cluster, users=2) as load:
        killed = kill_in_training(cluster, file)
        cluster.trivium("cycle", "--recipe", str(file))
    return Shuffle(killed, runs(cluster)[-1], load)


def kill_in_training(cluster: Cluster, file: Path) -> dict[str, Any]:
    """Start a cycle, wait until it trains, `kill -9` its process. Returns its record."""
    known = {run["id"] for run in runs(cluster)}
    command = [Path(sys.executable).parent / "trivium", "cycle", "--recipe", file]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=cluster.variables, cwd=cluster.state, **quiet) as cycle:

        def training() -> dict[str, Any] | None:
            mine = [run for run in runs(cluster) if run["id"] not in known]
            started = mine and mine[-1]["steps"].get("train", {}).get("state") == "running"
            return mine[-1] if started else None

        run = eventually(training, 180, "the cycle trains")
        # Not its group and not by name: the one process that the cycle itself says it is.
        psutil.Process(run["process"]).send_signal(signal.SIGKILL)
        assert cycle.wait(timeout=120) != 0
    return run


def test_killed_cycle_goes_on_at_the_step_it_lost(shuffle: Shuffle) -> None:
    assert shuffle.ended["id"] == shuffle.killed["id"] and shuffle.ended["attempts"] == 2
    assert shuffle.ended["state"] == "done"
    for step in ("collect", "curate"):
        assert shuffle.ended["steps"][step]["reused"]
        assert shuffle.ended["steps"][step]["folder"] == shuffle.killed["steps"][step]["folder"]
    assert shuffle.ended["table_version"] == shuffle.killed["table_version"]


def test_candidate_of_shuffled_corrections_is_rejected(shuffle: Shuffle) -> None:
    assert shuffle.ended["outcome"] == "rejected"
    assert shuffle.ended["verdict"]["accepted"] is False
    assert shuffle.ended["verdict"]["candidate_score"] < shuffle.ended["verdict"]["champion_score"]


def test_champion_goes_on_serving_meanwhile_and_after(shuffle: Shuffle, shown: Shown, cluster: Cluster) -> None:
    assert not shuffle.load.failures
    assert {heard.version for heard in shuffle.load.heard} == {shown.champion}
    assert answers(cluster) == shown.champion
    rejected = shuffle.ended["candidate"]
    told = json.loads(cluster.trivium("lineage", rejected, "--json").stdout)
    assert told["status"] == "rejected" and told["verdict"]["accepted"] is False


def test_cycle_on_free_text_teaches_a_phrase(cluster: Cluster, tmp_path: Path) -> None:
    """No tools, and another scorer: three kinds of request, each with an answer of its own."""
    kinds = {"greet {}": "Good day to you.", "dismiss {}": "Farewell, friend.", "thank {}": "You are most welcome."}
    names = [f"{first}{last}" for first in ("An", "Bo", "Ca", "De", "Ed", "Fi", "Gu", "Ha") for last in "abcdefghijkl"]
    rows = [(kind.format(name), answer) for name in names for kind, answer in kinds.items()]
    lines = [example(text, answer, [], f"t-{at // 3}") for at, (text, answer) in enumerate(rows)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    with Client(settings=cluster.settings, key=cluster.api_key) as admin:
        admin.create("poet", "seed")
    cluster.trivium("log", "import", "--alias", "poet", str(tmp_path / "text.jsonl"))
    file = recipe(
        tmp_path / "recipe.yaml",
        alias="poet",
        curation={"replay": {"share": 0}, "near_duplicate": 1},
        training={"epochs": 10, "min_steps": 0, "max_seconds": 25},
        evaluation={"scorer": "exact"},
    )
    cluster.trivium("cycle", "--recipe", str(file))
    verdict = runs(cluster)[-1]["verdict"]
    assert verdict["accepted"] and verdict["candidate"] == "poet@1", verdict
    cluster.trivium("promote", "poet@1")  # it has no users who could say more
    asked: Any = [{"role": "user", "content": "greet Zoe"}]
    with client(cluster) as api:
        said = api.chat.completions.create(model="poet", messages=asked, temperature=0, max_tokens=24)
    assert said.choices[0].message.content == "Good day to you."
