"""`kill -9` at every step of a run: it ends as if nothing had been, and nothing is done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("kills")
    command = [sys.executable, "-m", "tests.services.agents.killed", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_point_of_a_run_was_tried(points: list[dict[str, Any]]) -> None:
    assert [point["killed"] for point in points] == [True] * (len(points) - 1) + [False]
    # Model turns, effects and writes, each of them before and after.
    assert len(points) - 1 == 2 * (3 + 3 + 7)


def test_the_run_ends_as_without_the_kill(points: list[dict[str, Any]]) -> None:
    whole = points[-1]
    assert (whole["state"], whole["answer"], whole["turns"], whole["asked"]) == ("completed", "done", 3, 0)
    for point in points:
        for part in ("state", "answer", "turns", "tokens", "messages"):
            assert point[part] == whole[part], f"{part} after a kill at point {point['point']}"
        assert point["owners"] == 0


def test_no_effect_takes_place_twice(points: list[dict[str, Any]]) -> None:
    for point in points:
        once = [line for line in point["notes"] if line.startswith("once")]
        assert len(once) == len(set(once)) == 2, f"after a kill at point {point['point']}: {point['notes']}"
        often = {line for line in point["notes"] if line.startswith("often")}
        assert len(often) == 1, "an idempotent tool knows its repetition by the operation"


def test_a_person_is_asked_only_where_nobody_can_know(points: list[dict[str, Any]]) -> None:
    asked = [point["point"] for point in points if point["asked"]]
    assert 0 < len(asked) < len(points) / 2
    assert all(point["asked"] <= 1 for point in points)
