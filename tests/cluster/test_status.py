"""What `trivium status` says of a training that shares its machine with serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import cli, environment, pressure
from cluster.pressure import Turn
from cluster.records import Move
from cluster.runtime import training
from cluster.settings import Settings

GROWN = Move(time=1.0, kind="grow", workers=2, most=2, reason="training begins")
PAUSED = Move(time=2.0, kind="pause", workers=2, most=2, reason="3 requests under way", times=4, seconds=1.25)
SHRUNK = Move(time=3.0, kind="shrink", workers=0, most=2, reason="serving asks for 2 CPU")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(state=tmp_path)
    environment.make_folder(made)
    return made


def run(*moves: Move, state: str = "running") -> dict[str, Any]:
    steps = {"train": {"state": state}}
    return {"state": "running", "steps": steps, "moves": [move.model_dump(mode="json") for move in moves]}


def line(settings: Settings, given: dict[str, Any] | None) -> str:
    found = training(settings, given)
    return cli._training_line(found) if found else ""


def test_run_that_has_not_trained_shows_nothing(settings) -> None:
    assert training(settings, None) is None
    assert training(settings, {"state": "running", "steps": {}, "moves": []}) is None


def test_workers_and_the_last_move_with_its_reason_are_shown(settings) -> None:
    said = line(settings, run(GROWN))
    assert said.startswith("2 of 2 workers; last move at ") and said.endswith(": grew to 2 (training begins)")
    said = line(settings, run(GROWN, PAUSED))
    assert said.startswith("2 of 2 workers; ") and said.endswith(": paused (4 times, 1.2 s; 3 requests under way)")
    said = line(settings, run(GROWN, PAUSED, SHRUNK))
    assert said.startswith("0 of 2 workers; ") and said.endswith(": shrank to 0 (serving asks for 2 CPU)")


def test_worker_that_stands_still_right_now_is_shown_to(settings) -> None:
    turn = Turn(pressure.path(settings))
    assert not training(settings, run(GROWN))["paused"]
    turn.pause()
    assert line(settings, run(GROWN)).startswith("2 of 2 workers, paused; ")
    turn.resume()
    assert not training(settings, run(GROWN))["paused"]


def test_training_that_is_over_is_said_to_be(settings) -> None:
    found = training(settings, run(GROWN, PAUSED, state="done"))
    assert (found["running"], found["workers"], found["most"]) == (False, 0, 2)
    assert line(settings, run(GROWN, PAUSED, state="done")).startswith("over; last move at ")
