"""The wheel on a running cluster: what it starts, survives, and does again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.client import Client
from cluster.records import Entry
from pipelines.steps import runs
from tests.conftest import Cluster
from tests.pipelines.logs import corrected, write
from tests.waiting import eventually

pytestmark = pytest.mark.ray

PATIENCE_S = 300


def now(entries: list[Entry]) -> list[Entry]:
    """The same entries, logged this moment: a cycle counts as fresh what came after the newest that it has seen."""
    begun = time.time()
    return [entry.model_copy(update={"time": begun + at / 1000}) for at, entry in enumerate(entries)]


def look(cluster: Cluster) -> dict[str, Any] | None:
    """What the wheel says of itself; None while it is away."""
    try:
        with Client(cluster.settings, key=cluster.api_key) as client:
            return client.get("/admin/wheel")
    except ValueError:
        return None


def until(cluster: Cluster, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    return eventually(lambda: look(cluster), PATIENCE_S, "what the wheel says", wanted)


def test_switched_off_it_counts_but_starts_nothing(control: Cluster) -> None:
    write(control.state, now(corrected(60)))
    seen = until(control, lambda seen: seen["fresh"] == 60)
    assert (seen["on"], seen["reason"], seen["run"], seen["job"]) == (False, "switched off", None, None)


def test_switched_on_it_starts_one_cycle_and_adopts_it_after_its_own_death(control: Cluster) -> None:
    assert "wheel on" in control.trivium("wheel", "on").stdout
    started = until(control, lambda seen: seen["job"] is not None)
    os.kill(started["process"], signal.SIGKILL)

    back = until(control, lambda seen: seen["process"] != started["process"])
    assert back["on"]
    ended = until(control, lambda seen: seen["run"] is not None and seen["run"]["state"] == "done")
    assert ended["run"]["job"] == started["job"]
    assert ended["run"]["outcome"].startswith("only ")  # the recipe asks for more rows than there are
    until(control, lambda seen: seen["job"] is None and seen["reason"] == "0 of 50 answers with fresh feedback")
    assert len(runs(control.state)) == 1
    assert "only " in control.trivium("wheel", "status").stdout


def test_a_failed_cycle_is_tried_again_after_a_pause_and_goes_on(control: Cluster) -> None:
    # Training asks the deployment where the weights of the base are, and no engine serves it here.
    write(control.state, now(corrected(300, first=1000)))
    until(control, lambda seen: seen["run"]["state"] == "failed")
    until(control, lambda seen: seen["run"]["attempts"] >= 2 and seen["run"]["state"] == "failed")
    control.trivium("wheel", "off")
    second = runs(control.state)[1]
    assert second.steps["collect"].reused and second.steps["curate"].reused
    assert second.error is not None


def test_a_cycle_by_hand_is_a_job_too_and_says_how_it_ended(control: Cluster, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("curation: {min_rows: 9999}")
    said = control.trivium("cycle", "--recipe", str(recipe))
    assert "nothing to decide: only " in said.stdout.splitlines()[-1]
    assert runs(control.state)[-1].job is not None
    failed = control.trivium("cycle", "--recipe", str(tmp_path / "none.yaml"), check=False)
    assert failed.returncode == 1 and "cannot be read" in failed.stderr
