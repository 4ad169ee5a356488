from __future__ import annotations

import multiprocessing
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.decisions import Rollout, audit, fold, path, read, seal
from cluster.records import Decision
from services.legal import Action, Draft, admit, settled
from services.replicas import CannotLoad, Heard, lacking
from services.rollout import append
from tests.dying import die_at

CREATE = ("create", "assistant@0")
ONE = (CREATE, ("stage", "assistant@1"), ("promote", "assistant@1"))
REJECTED = (*ONE, ("stage", "assistant@2"), ("reject", "assistant@2"))
TWO = (*ONE, ("stage", "assistant@2"), ("promote", "assistant@2"))
CANARY = (*ONE, ("stage", "assistant@2"), ("canary", "assistant@2"))


def draft(
    action: Action,
    version: str | None = None,
    base: str | None = "seed",
    alias: str = "assistant",
    share: float | None = None,
) -> Draft:
    share = share or (0.1 if action == "canary" else None)
    return Draft(action, alias, "owner", "because", version, base, share=share)


def after(*steps: tuple[str, str]) -> list[Decision]:
    """Decisions that were made one after the other; each must be legal."""
    decisions: list[Decision] = []
    for action, version in steps:
        decisions.append(admit(fold(decisions), draft(action, version), now=1.0))  # type: ignore[arg-type]
    return decisions


# Deciding


def test_a_decision_takes_the_next_number_and_says_who_and_why() -> None:
    decision = admit(fold(after(*ONE)), draft("stage", "assistant@2"), now=5.0)
    assert (decision.sequence, decision.time, decision.version, decision.base) == (3, 5.0, "assistant@2", "seed")
    assert (decision.actor, decision.reason) == ("owner", "because")


def test_a_rollback_leads_to_the_version_before() -> None:
    decisions = after(*TWO)
    first = admit(fold(decisions), draft("rollback", base=None), now=5.0)
    second = admit(fold([*decisions, first]), draft("rollback", base=None), now=6.0)
    assert [first.version, second.version] == ["assistant@1", "assistant@0"]
    assert first.base == "seed"


@pytest.mark.parametrize(
    ("steps", "asked", "complaint"),
    [
        ((), draft("stage", "assistant@1"), "there is no alias assistant; there are: none yet"),
        (ONE, draft("stage", "helper@1", alias="helper"), "there is no alias helper; there are: assistant"),
        (ONE, draft("create", base="other"), "the alias assistant serves seed already, not other; choose another"),
        (ONE, draft("stage"), "stage needs a version of assistant, such as assistant@1, not None"),
        (ONE, draft("stage", "helper@1"), "stage needs a version of assistant"),
        (ONE, draft("stage", "assistant"), "'assistant' is not a version; write it as NAME@N"),
        (ONE, draft("stage", "assistant@2", base="other"), "assistant@2 was made for other, but assistant serves seed"),
        (ONE, draft("stage", "assistant@1"), "assistant@1 is the champion of assistant already"),
        (ONE, draft("promote", "assistant@2"), "assistant@2 is not staged, nothing is: another decision came between"),
        ((*ONE, ("stage", "assistant@3")), draft("promote", "assistant@2"), "not staged, assistant@3 is"),
        (ONE, draft("reject", "assistant@2"), "assistant@2 cannot be rejected, because it is not staged; nothing is"),
        (ONE, draft("canary", "assistant@2"), "assistant@2 is not staged, nothing is: another decision came between"),
        (ONE, draft("canary", "assistant@1"), "assistant@1 is the champion of assistant already"),
        (CANARY, draft("stage", "assistant@3"), "assistant@2 is in its canary; wait for its end, or `trivium reject"),
        ((CREATE,), draft("rollback"), "assistant has never been promoted, so there is nothing to roll back to"),
        (TWO, draft("rollback", "assistant@0"), "a rollback of assistant leads to assistant@1, not assistant@0"),
    ],
)
def test_what_may_not_follow_is_refused_in_one_sentence(
    steps: tuple[tuple[str, str], ...], asked: Draft, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        admit(fold(after(*steps)), asked, now=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "asked", "earlier"),
    [
        (ONE, draft("create"), 0),
        (ONE, draft("promote", "assistant@1"), 2),
        (ONE, draft("stage", "assistant@1"), 2),  # every replica holds the champion
        ((*ONE, ("stage", "assistant@2")), draft("stage", "assistant@2"), 3),
        (REJECTED, draft("reject", "assistant@2"), 4),
        (CANARY, draft("stage", "assistant@2"), 3),
        (CANARY, draft("canary", "assistant@2"), 4),
        ((*TWO, ("rollback", "assistant@1")), draft("rollback", "assistant@1"), 5),
        ((*TWO, ("rollback", "assistant@1")), draft("promote", "assistant@1"), 5),
    ],
)
def test_asking_again_changes_nothing(steps: tuple[tuple[str, str], ...], asked: Draft, earlier: int) -> None:
    decisions = after(*steps)
    assert settled(decisions, asked) == decisions[earlier]


@pytest.mark.parametrize(
    ("steps", "asked"),
    [
        ((), draft("create")),
        (ONE, draft("create", base="other")),
        (ONE, draft("stage", "assistant@2")),
        (REJECTED, draft("stage", "assistant@2")),
        ((*REJECTED, ("stage", "assistant@2")), draft("reject", "assistant@2")),
        (CANARY, draft("canary", "assistant@2", share=0.3)),
        (CANARY, draft("promote", "assistant@2")),
        (TWO, draft("promote", "assistant@1")),
        (TWO, draft("rollback")),
        ((*TWO, ("rollback", "assistant@1")), draft("rollback")),
        (TWO, draft("rollback", "assistant@1")),
    ],
)
def test_a_new_wish_is_not_taken_for_a_repeated_one(steps: tuple[tuple[str, str], ...], asked: Draft) -> None:
    assert settled(after(*steps), asked) is None


# Writing


def test_a_decision_is_in_the_log_when_append_returns(tmp_path: Path) -> None:
    made = [append(tmp_path, draft(action, version)) for action, version in TWO]  # type: ignore[arg-type]
    assert read(tmp_path) == made
    assert sorted(os.listdir(tmp_path / "rollout")) == [f"{n:08}.json" for n in range(5)]


def test_what_is_not_legal_leaves_no_trace(tmp_path: Path) -> None:
    append(tmp_path, draft("create"))
    with pytest.raises(ValueError, match="is not staged"):
        append(tmp_path, draft("promote", "assistant@1"))
    assert [decision.sequence for decision in read(tmp_path)] == [0]


def test_asking_twice_writes_once(tmp_path: Path) -> None:
    assert append(tmp_path, draft("create")) == append(tmp_path, draft("create"))
    assert len(read(tmp_path)) == 1


def _write_at_random(state: Path, seed: int, barrier: Any, results: Any) -> None:
    chance, made, refused = random.Random(seed), [], 0
    barrier.wait()
    while len(made) < 25:
        action = chance.choice(["stage", "stage", "canary", "promote", "promote", "reject", "rollback"])
        version = None if action == "rollback" else f"assistant@{chance.randrange(1, 6)}"
        try:
            made.append(append(state, draft(action, version)).sequence)  # type: ignore[arg-type]
        except ValueError:
            refused += 1
    results.put((made, refused))


def test_writers_at_once_leave_one_legal_history(tmp_path: Path) -> None:
    append(tmp_path, draft("create"))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    writers = [context.Process(target=_write_at_random, args=(tmp_path, n, barrier, results)) for n in range(4)]
    for writer in writers:
        writer.start()
    reports = [results.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join()

    decisions = read(tmp_path)
    files = sorted(os.listdir(tmp_path / "rollout"))
    assert files == [f"{n:08}.json" for n in range(len(decisions))], "no gap, nothing half done"
    assert [decision.sequence for decision in decisions] == list(range(len(decisions)))
    assert {n for made, _ in reports for n in made} <= set(range(1, len(decisions))), "what a writer was told is there"
    assert len(decisions) > 30
    for n, decision in enumerate(decisions):  # each was legal on the state before it
        asked = draft(decision.action, decision.version, decision.base)
        legal = admit(fold(decisions[:n]), asked, decision.time)
        assert seal(legal, decisions[n - 1] if n else None) == decision
    assert audit(tmp_path).fault is None


def test_a_writer_that_dies_at_any_step_leaves_the_decision_or_nothing(tmp_path: Path) -> None:
    exits = set()
    for step in range(1, 8):
        state = tmp_path / str(step)
        append(state, draft("create"))
        before = append(state, draft("stage", "assistant@1"))
        calls, promote = ("open", "fsync", "link", "unlink"), partial(append, state, draft("promote", "assistant@1"))
        writer = multiprocessing.get_context("fork").Process(target=die_at, args=(step, calls, promote))
        writer.start()
        writer.join()
        exits.add(writer.exitcode)
        champion = fold(read(state)).aliases["assistant"].champion
        decided = path(state, before.sequence + 1).exists()
        assert champion == ("assistant@1" if decided else "assistant@0")
        # Whoever asks again finds it done or does it; the log goes on without a gap either way.
        assert append(state, draft("promote", "assistant@1")).sequence == before.sequence + 1
    assert exits == {0, 9}


# Hearing


def reply(replica: str, sequence: int = 4, base: str = "seed", *versions: str, **errors: str) -> dict[str, Any]:
    failed = {f"assistant@{number[1:]}": reason for number, reason in errors.items()}
    return {"replica": replica, "sequence": sequence, "base": base, "versions": list(versions), "errors": failed}


BOTH = [reply("a", 4, "seed", "assistant@0", "assistant@2"), reply("b", 5, "seed", "assistant@0", "assistant@2")]
MAIN, OTHER = Heard("main", 2, BOTH), Heard("other", 1, [reply("x", 4, "other")])
LATE = Heard("main", 2, [BOTH[0], reply("b", 3, "seed", "assistant@2")])
EMPTY = Heard("main", 2, [BOTH[0], reply("b", 4, "seed")])
STARTING = Heard("main", 0, [])
FULL = [Heard("main", 1, [reply("a", _2="that is no adapter")]), Heard("full", 1, [reply("f", 4, "assistant@2")])]
LOST = [Heard("main", 1, [reply("a") | {"unreached": ["assistant@2"]}]), FULL[1]]
NOBODY, ONE_OF_TWO = "no application of the cluster holds assistant@2", "1 of 2 replicas of main answered"


@pytest.mark.parametrize(
    ("gateways", "version", "lack"),
    [
        ([MAIN], "assistant@2", None),
        ([OTHER, MAIN], "assistant@2", None),
        ([OTHER, MAIN], None, None),
        ([MAIN], "assistant@0", None),
        (FULL, "assistant@2", None),
        (LOST, "assistant@2", "replica a of main does not reach assistant@2"),
        (LOST, None, None),
        ([Heard("main", 2, BOTH[:1])], "assistant@2", ONE_OF_TWO),
        ([LATE], None, ONE_OF_TWO),
        ([EMPTY], "assistant@2", NOBODY),
        ([OTHER], "assistant@2", NOBODY),
        ([], "assistant@2", NOBODY),
        ([STARTING], "assistant@2", NOBODY),
        ([STARTING], None, None),  # a replica that starts reads the decision log before it serves
    ],
)
def test_success_is_what_every_running_replica_says(
    gateways: list[Heard], version: str | None, lack: str | None
) -> None:
    found = lacking(gateways, 4, version)
    assert found is None if lack is None else found is not None and found.startswith(lack)


def test_a_replica_that_cannot_load_ends_the_wait_with_its_reason() -> None:
    gateway = Heard("main", 2, [BOTH[0], reply("b", 4, "seed", _2="rank 64 is above 32")])
    with pytest.raises(CannotLoad, match="replica b of main cannot load assistant@2: rank 64 is above 32"):
        lacking([gateway], 4, "assistant@2")
    assert lacking([gateway], 4, None) is None


def test_an_empty_state_wants_nothing() -> None:
    assert fold([]) == Rollout()
