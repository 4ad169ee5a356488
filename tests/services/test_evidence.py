"""What the log says of a canary: one observation for each session, whoever reads it and however often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.decisions import Alias, Canary
from cluster.log import Log
from cluster.records import Entry, Feedback, Record, Step
from services.canary import Observation
from services.evidence import Comparison, Witness

ALIAS = Alias("assistant", "seed", "assistant@1", staged="assistant@2", canary=Canary(0.1, 100.0, "a"), canaries=3)


def answer(name: str, session: str = "s", arm: Any = "candidate", time: float = 101.0, **more: Any) -> Record:
    version = {"candidate": "assistant@2", "shadow": "assistant@2", "champion": "assistant@1"}.get(arm, "assistant@2")
    fields = {"request_id": name, "session": session, "arm": arm, "time": time, "version": version, **more}
    return Record(**{"principal": "p", "endpoint": "/", "alias": "assistant", "latency_s": 1.0, **fields})


def said(name: str, score: float, time: float = 103.0, source: str = "user") -> Feedback:
    return Feedback(request_id=name, time=time, principal="p", source=source, score=score)


def reward(run: str, score: float, session: str = "s", time: float = 103.0, source: str = "checker") -> Step:
    body = {"score": score, "source": source}
    return Step(
        request_id=f"{run}/9", time=time, principal="p", session=session, run=run, number=9, agent="clerk",
        source="agents-1", event="reward", body=body,
    )  # fmt: skip


def seen(*entries: Entry, session_s: float = 5, now: float = 200.0) -> Any:
    evidence = Comparison("assistant", "assistant@2", "assistant@1", 100.0)
    evidence.add(entries)
    return evidence.state(ALIAS, session_s, now)


def test_each_side_is_told_with_its_scores_failures_and_times() -> None:
    state = seen(
        answer("a"), answer("b", "t", "champion", latency_s=2.0), answer("c", "u", status=500),
        said("a", 1.0), said("b", 0.25),
    )  # fmt: skip
    assert state.scores == [Observation(True, 1.0), Observation(False, 0.25)]
    assert state.errors == [Observation(True, 0.0), Observation(True, 1.0), Observation(False, 0.0)]
    assert state.latencies == [Observation(True, 1.0), Observation(False, 2.0)]
    assert (state.share, state.canaries, state.age_s, state.records) == (0.1, 3, 100.0, 1)


def test_a_session_is_one_observation_of_what_was_said_within_its_first_seconds() -> None:
    state = seen(
        answer("a"), answer("b"), answer("c", time=150), said("a", 1.0), said("b", 0.0, 105), said("c", 0.0, 160)
    )
    assert state.scores == [Observation(True, 0.5)]


def test_a_session_that_is_still_talking_does_not_count_yet() -> None:
    assert seen(answer("a"), said("a", 1.0, 103), now=107).scores == []
    assert seen(answer("a"), said("a", 1.0, 103), now=108).scores == [Observation(True, 1.0)]


def test_a_later_word_of_the_same_source_replaces_the_first_and_sources_are_averaged() -> None:
    entries = [answer("a"), said("a", 0.0, 102), said("a", 1.0, 103), said("a", 0.5, 104, "judge")]
    assert seen(*entries).scores == seen(*reversed(entries)).scores == [Observation(True, 0.75)]


def test_what_a_run_was_worth_counts_for_who_answered_in_it() -> None:
    state = seen(
        answer("a"), answer("b", time=102.0), reward("r", 0.0, time=102), reward("r", 1.0, time=104),
        answer("c", "t", "champion"), reward("q", 0.5, "t"), reward("q", 0.0, "t", source="user"),
        reward("x", 1.0, "a thread of another alias"),
    )  # fmt: skip
    assert state.scores == [Observation(False, 0.25), Observation(True, 1.0)] and state.records == 1


def test_feedback_on_answers_and_rewards_of_the_run_they_are_in_are_one_observation() -> None:
    assert seen(answer("a"), said("a", 0.0), reward("r", 1.0)).scores == [Observation(True, 0.5)]


@pytest.mark.parametrize(
    "other",
    [
        answer("a", time=99.0),  # before it began
        answer("a", alias="poet"),
        answer("a", arm="direct", alias=None),
        answer("a", arm="champion", version="assistant@0"),  # a replica that had not heard of the rollback yet
        answer("a", status=400),  # the caller's fault
    ],
)
def test_what_belongs_to_no_side_does_not_count(other: Record) -> None:
    state = seen(other, said("a", 0.0))
    assert (state.scores, state.errors, state.latencies, state.records) == ([], [], [], 0)


def test_who_hung_up_says_nothing_about_time() -> None:
    state = seen(answer("a", disconnected=True))
    assert state.errors == [Observation(True, 0.0)] and state.latencies == []


def test_a_session_that_changed_sides_counts_for_the_first() -> None:
    state = seen(answer("a", arm="champion"), answer("b", arm="candidate", time=102.0), said("a", 1.0), said("b", 0.0))
    assert state.scores == [Observation(False, 1.0)]


def test_a_shadow_is_a_side_of_its_own_session(tmp_path: Path) -> None:
    # The user's answer and the unseen one belong to the same session: both sides have it.
    state = seen(answer("a", arm="champion"), answer("b", arm="shadow", shadow_of="a"))
    assert state.errors == [Observation(False, 0.0), Observation(True, 0.0)]


def test_what_a_run_was_worth_says_nothing_of_a_shadow() -> None:
    evidence = Comparison("assistant", "assistant@2", "assistant@1", 100.0, shadow=True)
    evidence.add([answer("a", arm="champion"), answer("b", arm="shadow", shadow_of="a"), reward("r", 0.0)])
    assert evidence.state(ALIAS, 5, 200.0).scores == []


def test_a_witness_sees_the_same_whether_it_was_there_all_the_time_or_came_late(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    early, entries = Witness(log, ALIAS), []
    with log.writer("gateway") as writer:
        for n in range(30):
            arm = "candidate" if n % 3 == 0 else "champion"
            entries += [answer(f"r{n}", f"s{n // 2 if n % 3 else n}", arm, 101.0 + n), said(f"r{n}", n % 2, 102.0 + n)]
            writer.append_many(entries[-2:])
            if n % 10 == 5:
                log.compact()
            early.look(ALIAS, 5, 200.0)
    late = Witness(log, ALIAS)
    assert early.look(ALIAS, 5, 300.0) == late.look(ALIAS, 5, 300.0)
    assert len(late.look(ALIAS, 5, 300.0).scores) > 15


def test_a_witness_does_not_take_another_comparison_for_its_own(tmp_path: Path) -> None:
    from dataclasses import replace

    witness = Witness(Log(tmp_path / "log"), ALIAS)
    assert witness.follows(replace(ALIAS, canary=Canary(0.5, 100.0, "a"))), "a larger share is the same canary"
    assert not witness.follows(replace(ALIAS, canary=Canary(0.1, 150.0, "a")))
    assert not witness.follows(replace(ALIAS, champion="assistant@0"))
