from __future__ import annotations

from pathlib import Path

import pytest

from cluster import durable
from cluster.decisions import Alias, Rollout, fold, path, read
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
