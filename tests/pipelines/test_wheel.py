from __future__ import annotations

from typing import Any

import pytest

from pipelines.freshness import Fresh
from pipelines.steps import RunRecord
from pipelines.wheel import Start, Wait, WheelSettings, WheelState, ages, decide

SETTINGS = WheelSettings(
    min_feedback=100, min_aged=10, max_age_s=3600, settle_s=5, settle_most_s=60, score_drop=0.1, retry_s=30
)
HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, Wait("0 of 100 answers with fresh feedback")),
        ({"fresh": 99, "newest_s": 60}, Wait("99 of 100 answers with fresh feedback")),
        ({"fresh": 100, "newest_s": 60}, Start("100 answers with fresh feedback")),
        # Switched off, nothing starts, whatever else is true.
        ({"on": False, "fresh": 1000, "unfinished": "r"}, Wait("switched off")),
        # One cycle at a time.
        ({"running": "job-1", "fresh": 1000}, Wait("a cycle is running (job-1)")),
        ({"running": "job-1", "unfinished": "r"}, Wait("a cycle is running (job-1)")),
        # While live traffic judges a candidate, there is no place for another.
        ({"canary": "assistant@2", "fresh": 1000, "newest_s": 60}, Wait("assistant@2 is in its canary")),
        ({"canary": "assistant@2", "unfinished": "r"}, Wait("assistant@2 is in its canary")),
        # While feedback pours in it waits, but not for ever.
        ({"fresh": 100, "newest_s": 4}, Wait("feedback is coming in, 100 so far")),
        ({"fresh": 100, "newest_s": 4, "enough_s": 59}, Wait("feedback is coming in, 100 so far")),
        ({"fresh": 500, "newest_s": 0, "enough_s": 60}, Start("500 answers with fresh feedback")),
        # Little but old.
        (
            {"fresh": 10, "oldest_s": HOUR_S, "newest_s": 60},
            Start("10 answers with feedback, the oldest 1.0 hours old"),
        ),
        ({"fresh": 9, "oldest_s": 9 * HOUR_S, "newest_s": 60}, Wait("9 of 100 answers with fresh feedback")),
        ({"fresh": 10, "oldest_s": HOUR_S - 1, "newest_s": 60}, Wait("10 of 100 answers with fresh feedback")),
        # A falling live score, if there is something to learn from.
        (
            {"fresh": 10, "newest_s": 60, "earlier_score": 0.9, "recent_score": 0.7},
            Start("the live score fell from 0.90 to 0.70"),
        ),
        (
            {"fresh": 10, "newest_s": 60, "earlier_score": 0.9, "recent_score": 0.85},
            Wait("10 of 100 answers with fresh feedback"),
        ),
        (
            {"fresh": 10, "newest_s": 60, "earlier_score": 0.7, "recent_score": 0.9},
            Wait("10 of 100 answers with fresh feedback"),
        ),
        (
            {"fresh": 9, "newest_s": 60, "earlier_score": 0.9, "recent_score": 0.1},
            Wait("9 of 100 answers with fresh feedback"),
        ),
        # After a failure, with growing pauses.
        ({"failures": 1, "ended_s": 10, "fresh": 1000}, Wait("the last cycle failed; trying again in 20 s")),
        ({"failures": 1, "ended_s": 30, "unfinished": "r"}, Start("run r was not finished")),
        ({"failures": 3, "ended_s": 60, "unfinished": "r"}, Wait("the last cycle failed; trying again in 60 s")),
        ({"failures": 50, "ended_s": HOUR_S - 1}, Wait("the last cycle failed; trying again in 1 s")),
        ({"failures": 50, "ended_s": HOUR_S, "fresh": 100, "newest_s": 60}, Start("100 answers with fresh feedback")),
        # A killed cycle goes on although feedback is coming in.
        ({"failures": 1, "ended_s": 31, "unfinished": "r", "newest_s": 0, "fresh": 5}, Start("run r was not finished")),
    ],
)
def test_decide(state: dict[str, Any], expected: Start | Wait) -> None:
    assert decide(WheelState(**state), SETTINGS) == expected


def run(number: int, **changes: Any) -> RunRecord:
    made: dict[str, Any] = {"id": f"run-{number}", "alias": "assistant", "recipe": "default", "recipe_digest": "d"}
    return RunRecord(**{**made, "started": float(number), "process": 1, "host": "h", "state": "done", **changes})


def test_a_killed_run_is_unfinished_and_counts_as_a_failure() -> None:
    seen = ages(Fresh(), [run(1), run(2, state="running")], touched=90.0, now=100.0)
    assert (seen["unfinished"], seen["failures"], seen["ended_s"]) == ("run-2", 1, 10.0)


def test_failures_add_up_until_a_cycle_comes_to_its_end() -> None:
    failed = [run(1), run(2, state="failed", attempts=3), run(3, state="failed", attempts=2)]
    assert ages(Fresh(), failed, 0.0, 1.0)["failures"] == 5
    seen = ages(Fresh(), [*failed, run(4)], 0.0, 1.0)
    assert (seen["failures"], seen["unfinished"], seen["ended_s"]) == (0, None, float("inf"))


def test_a_run_that_was_given_up_is_not_gone_on_with() -> None:
    assert ages(Fresh(), [run(1, state="failed", attempts=3)], 0.0, 1.0)["unfinished"] is None


def test_times_become_ages() -> None:
    seen = ages(Fresh(5, oldest=40.0, newest=90.0, recent_score=0.5, earlier_score=0.6), [], 0.0, 100.0)
    assert (seen["fresh"], seen["oldest_s"], seen["newest_s"]) == (5, 60.0, 10.0)
    assert (seen["recent_score"], seen["earlier_score"]) == (0.5, 0.6)
