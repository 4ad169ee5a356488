from typing import Any

import pytest

from demo.play import first_batch
from demo.turn import Turn, Wheel

RUN: dict[str, Any] = {
    "id": "c1", "state": "running", "attempts": 1, "resumable": True, "outcome": None, "candidate": None,
    "verdict": None, "error": None, "timings_s": {"collect": 1.5},
    "steps": {"collect": {"state": "done", "seconds": 1.5}, "curate": {"state": "running", "started": 2.0}},
}  # fmt: skip


def test_running_cycle_shows_its_step_and_what_is_done() -> None:
    turn = Turn.read(RUN)
    assert (turn.done, turn.hopeless, turn.step, turn.steps_s) == (False, False, "curate", {"collect": 1.5})


@pytest.mark.parametrize(
    ("run", "done", "hopeless"),
    [
        ({"state": "done", "outcome": "promoted"}, True, False),
        ({"state": "done", "outcome": "the log is empty"}, True, False),
        ({"state": "failed", "error": "Boom"}, False, False),  # the wheel tries again
        ({"state": "failed", "error": "Boom", "attempts": 3}, False, True),
        ({"state": "failed", "error": "Boom", "resumable": False}, False, True),
    ],
)
def test_failed_cycle_is_over_only_when_the_wheel_gives_up(run: dict[str, Any], done: bool, hopeless: bool) -> None:
    turn = Turn.read({**RUN, **run})
    assert (turn.done, turn.hopeless) == (done, hopeless)


def test_wheel_that_never_turned_has_no_turn() -> None:
    state = {"on": True, "run": None, "reason": "0 of 300 answers", "fresh": 0, "min_feedback": 300}
    assert Wheel.read(state) == Wheel(True, None, "0 of 300 answers", 0, 300)


@pytest.mark.parametrize(
    ("count", "rate", "first"),
    [
        (4000, 1.0, 3600),
        (1200, 1.0, 870),
        (4000, 0.2, 2350),  # the rest must bring 300 answers with feedback
        (500, 1.0, 450),  # too few for two turns: nearly all for the first
        (1, 1.0, 1),
    ],
)
def test_first_turn_gets_most_requests_and_a_second_one_enough(count: int, rate: float, first: int) -> None:
    assert first_batch(count, rate, min_feedback=300) == first
