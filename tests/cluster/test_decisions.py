from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import durable
from cluster.decisions import Alias, Canary, Rollout, audit, fold, path, read, seal
from cluster.records import Decision


def decided(*steps: tuple[str, str], alias: str = "assistant") -> list[Decision]:
    return [
        Decision(
            sequence=n,
            time=float(n),
            action=action,
            alias=alias,
            version=version,
            base="seed",
            actor="owner",
            reason="r",
        )
        for n, (action, version) in enumerate(steps)
    ]


TO_TWO = (
    ("create", "assistant@0"),
    ("stage", "assistant@1"),
    ("promote", "assistant@1"),
    ("stage", "assistant@2"),
    ("promote", "assistant@2"),
)


def canaries(*steps: tuple[str, str, float | None]) -> Alias:
    """What an alias comes to whose decisions also have shares."""
    made = decided(*((action, version) for action, version, _ in steps))
    return fold(d.model_copy(update={"share": s[2]}) for d, s in zip(made, steps, strict=True)).aliases["assistant"]


BEGUN = (("create", "assistant@0", None), ("stage", "assistant@1", None), ("canary", "assistant@1", 0.1))


def write(state: Path, decisions: list[Decision]) -> None:
    durable.make_folder(state / "rollout")
    for decision in decisions:
        durable.create(path(state, decision.sequence), decision.model_dump_json().encode())


@pytest.mark.parametrize(
    ("steps", "champion", "history", "staged"),
    [
        (TO_TWO[:1], 0, (), None),
        (TO_TWO[:2], 0, (), 1),
        (TO_TWO[:3], 1, (0,), None),
        (TO_TWO, 2, (0, 1), None),
        ((*TO_TWO, ("rollback", "assistant@1")), 1, (0,), None),
        ((*TO_TWO, ("stage", "assistant@3"), ("reject", "assistant@3")), 2, (0, 1), None),
        # A rollback leaves the candidate where it is: it is judged on its own merits.
        ((*TO_TWO, ("stage", "assistant@3"), ("rollback", "assistant@1")), 1, (0,), 3),
        ((*TO_TWO, ("stage", "assistant@1"), ("rollback", "assistant@1")), 1, (0,), None),
    ],
)
def test_an_alias_is_what_its_decisions_come_to(
    steps: tuple[tuple[str, str], ...], champion: int, history: tuple[int, ...], staged: int | None
) -> None:
    alias = fold(decided(*steps)).aliases["assistant"]
    former = tuple(f"assistant@{n}" for n in history)
    assert alias == Alias("assistant", "seed", f"assistant@{champion}", former, staged and f"assistant@{staged}")


def test_a_canary_has_a_share_a_beginning_and_a_draw_of_its_own() -> None:
    alias = canaries(*BEGUN)
    assert (alias.champion, alias.staged, alias.canaries) == ("assistant@0", "assistant@1", 1)
    assert alias.canary == Canary(0.1, since=2.0, salt="assistant:2")


def test_a_share_that_grows_is_still_the_same_canary() -> None:
    alias = canaries(*BEGUN, ("canary", "assistant@1", 0.5))
    assert alias.canary == Canary(0.5, since=2.0, salt="assistant:2") and alias.canaries == 1


@pytest.mark.parametrize(
    ("action", "champion", "history"),
    [("promote", "assistant@1", ("assistant@0",)), ("reject", "assistant@0", ())],
)
def test_a_canary_ends_with_a_promotion_or_a_rejection(action: str, champion: str, history: tuple[str, ...]) -> None:
    alias = canaries(*BEGUN, (action, "assistant@1", None))
    assert (alias.champion, alias.history, alias.staged, alias.canary) == (champion, history, None, None)
    assert alias.canaries == 1, "the next one knows that it is the second"


def test_a_rollback_of_the_champion_lets_its_canary_begin_anew() -> None:
    promoted = (*BEGUN, ("promote", "assistant@1", None))
    alias = canaries(
        *promoted, ("stage", "assistant@2", None), ("canary", "assistant@2", 0.3), ("rollback", "assistant@0", None)
    )
    assert (alias.champion, alias.staged, alias.canaries) == ("assistant@0", "assistant@2", 3)
    assert alias.canary == Canary(0.3, since=6.0, salt="assistant:5")


def test_folding_on_from_a_state_gives_the_same_as_folding_everything() -> None:
    decisions = decided(*TO_TWO)
    for cut in range(len(decisions) + 1):
        assert fold(decisions[cut:], start=fold(decisions[:cut])) == fold(decisions)


def test_folding_on_leaves_the_earlier_state_as_it_was() -> None:
    decisions = decided(*TO_TWO)
    before = fold(decisions[:3])
    fold(decisions[3:], start=before)
    assert before == fold(decisions[:3])


def test_a_decision_that_does_not_follow_is_never_folded_in() -> None:
    decisions = decided(*TO_TWO)
    with pytest.raises(AssertionError, match="decision 2 cannot follow 0"):
        fold([decisions[0], decisions[2]])


def test_replicas_hold_the_champion_its_predecessor_and_the_staged_version_of_their_base() -> None:
    rollout = fold(decided(*TO_TWO, ("stage", "assistant@3")))
    assert rollout.wanted("seed") == ["assistant@2", "assistant@1", "assistant@3"]
    assert rollout.wanted("other") == []
    assert Rollout().wanted("seed") == []


def test_a_reader_sees_decisions_in_order_after_the_ones_it_has(tmp_path: Path) -> None:
    decisions = decided(*TO_TWO)
    assert read(tmp_path) == []
    write(tmp_path, decisions)
    assert read(tmp_path) == decisions
    assert read(tmp_path, after=2) == decisions[3:]
    assert read(tmp_path, after=4) == []


def test_temporary_files_of_a_dead_writer_are_not_decisions(tmp_path: Path) -> None:
    write(tmp_path, decided(*TO_TWO))
    path(tmp_path, 5).with_name(".00000005.json.77.abcd").write_text('{"half": ')
    assert fold(read(tmp_path)).sequence == 4


# The chain


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A state folder with five decisions, each the next link of the chain."""
    before: Decision | None = None
    for decision in decided(*TO_TWO):
        before = seal(decision, before)
        write(tmp_path, [before])
    return tmp_path


def change(state: Path, sequence: int, **fields: object) -> None:
    """What somebody with an editor would do."""
    file = path(state, sequence)
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **fields}))


def test_a_log_that_nobody_touched_passes_the_audit(sealed: Path) -> None:
    found = audit(sealed)
    assert (found.entries, found.fault, found.head) == (5, None, read(sealed)[-1].digest)
    assert audit(sealed / "elsewhere").entries == 0


@pytest.mark.parametrize("sequence", range(5))
def test_audit_names_the_first_entry_that_was_changed(sealed: Path, sequence: int) -> None:
    change(sealed, sequence, reason="somebody else said so")
    found = audit(sealed)
    assert found.entries == sequence
    assert found.fault == f"entry {sequence} was changed: its digest does not fit what it says"


def test_audit_sees_an_entry_that_was_changed_and_sealed_anew(sealed: Path) -> None:
    forged = read(sealed)[2].model_copy(update={"version": "assistant@9"})
    path(sealed, 2).write_text(seal(forged, read(sealed)[1]).model_dump_json())
    assert audit(sealed).fault == "entry 3 does not follow the entry before it"


def test_audit_sees_what_only_a_newer_release_wrote(sealed: Path) -> None:
    change(sealed, 4, approved_by="nobody")
    assert "entry 4 was changed" in str(audit(sealed).fault)


def test_audit_names_an_entry_that_is_gone_broken_or_moved(sealed: Path) -> None:
    path(sealed, 4).write_bytes(path(sealed, 3).read_bytes())
    assert audit(sealed).fault == "entry 4 is entry 3 under another number"
    path(sealed, 3).write_text('{"half": ')
    assert audit(sealed).fault == "entry 3 is not a sealed decision"
    path(sealed, 1).unlink()
    assert audit(sealed).fault == "entry 1 is missing"


def test_a_head_that_was_noted_down_shows_a_log_that_was_cut_off(sealed: Path) -> None:
    noted = audit(sealed).head
    assert audit(sealed, head=noted).fault is None
    path(sealed, 4).unlink()
    assert audit(sealed).fault is None, "nothing in what is left shows it"
    assert "was cut off before it, or written anew" in str(audit(sealed, head=noted).fault)
