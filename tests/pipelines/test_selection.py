from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.duplicates import bands, signatures
from pipelines.holdout import Draw, Held
from pipelines.selection import select


@dataclass(frozen=True)
class Light:
    """A row, with its text where `select` gets its hashes."""

    row_id: str
    time: float
    session: str
    slice: str
    prompt: str
    target: str


@dataclass(frozen=True)
class Chosen:
    """Row ids, each with the ids of all records that it stands for."""

    train: dict[str, list[str]]
    holdout: dict[str, list[str]]
    dropped: dict[str, int]


def light(number: int, text: str, target: str = "t", **changes: Any) -> Light:
    row = {"row_id": f"r{number}", "time": float(number), "session": f"s{number}", "slice": "a"}
    return Light(**{**row, "prompt": text, "target": target, **changes})


TEXTS = ["play hurt", "will it rain in oslo", "book a table for two", "rate this essay five stars", "add it to my list"]


def chosen(rows: list[Light], held: Held | None = None, drawn: Draw | None = None, old: tuple[str, ...] = ()) -> Chosen:
    minima = signatures([row.prompt for row in rows])
    keys = pa.array([one.tobytes() for one in bands(minima, 0.85)], pa.binary(128))
    table = pa.Table.from_pylist([asdict(row) for row in rows]).append_column("bands", keys)
    found = select(table, held or Held(), drawn or Draw(), signatures(old), lambda places: minima[places], 0.85)

    def by_id(kept: pa.Table) -> dict[str, list[str]]:
        return {rows[row["place"]].row_id: row["record_ids"] for row in kept.to_pylist()}

    return Chosen(by_id(found.train), by_id(found.holdout), found.dropped)


def test_what_touches_something_held_out_is_not_learnt_but_may_be_asked() -> None:
    rows = [light(n, text, session=f"s{n}") for n, text in enumerate(TEXTS)]
    minima = signatures([row.prompt for row in rows])
    keys = pa.array([one.tobytes() for one in bands(minima, 0.85)], pa.binary(128))
    touches = pa.array([["s0", "task:a"], None, ["s2", "task:b"], ["s3", "s4"], ["task:a"]], pa.list_(pa.string()))
    table = pa.Table.from_pylist([asdict(row) for row in rows])
    table = table.append_column("bands", keys).append_column("touches", touches)
    held, drawn = Held(sessions=frozenset({"task:a"})), Draw(frozenset({"a"}), frozenset({"s4"}))
    found = select(table, held, drawn, signatures(()), lambda places: minima[places], 0.85)
    assert [row["place"] for row in found.holdout.to_pylist()] == [4], "drawn, whatever else it touches"
    assert sorted(row["place"] for row in found.train.to_pylist()) == [1, 2]
    assert found.dropped["of a held-out session"] == 2


def test_of_the_same_request_one_row_stays_and_keeps_all_ids() -> None:
    found = chosen([light(1, "play hurt"), light(2, "play hurt"), light(3, "will it rain in oslo")])
    assert found.train == {"r3": ["r3"], "r2": ["r1", "r2"]}
    assert found.dropped == {"duplicate": 1}


def test_conflicting_targets_are_settled_by_the_majority_and_then_by_the_latest() -> None:
    rows = [
        light(1, "x", "old"),
        light(2, "x", "old"),
        light(3, "x", "new"),
        light(4, "y", "old"),
        light(5, "y", "new"),
    ]
    found = chosen(rows)
    assert found.train == {"r5": ["r5"], "r2": ["r1", "r2"]}
    assert found.dropped == {"with a conflicting target": 2, "duplicate": 1}


def test_nearly_the_same_request_stays_only_if_its_target_differs() -> None:
    rows = [
        light(1, "what is the movie schedule in my neighbourhood", "a"),
        light(2, "what is the movie schedule in my neighbourhood please", "a"),
        light(3, "What is the movie schedule in my neighbourhood 2", "b"),
    ]
    found = chosen(rows)
    assert set(found.train) == {"r2", "r3"}
    assert found.dropped == {"nearly a duplicate": 1}


def test_nothing_in_training_is_or_nearly_is_in_the_holdout() -> None:
    rows = [
        light(1, "what is the movie schedule in my neighbourhood", "a"),
        light(2, "What is the movie schedule in my neighbourhood?", "b"),
        light(3, "will it rain in oslo"),
        light(4, "book a table for two"),
    ]
    drawn = Draw(frozenset({"a"}), frozenset({"s1"}))
    found = chosen(rows, drawn=drawn, old=("Will it rain in Oslo!",))
    assert found.holdout == {"r1": ["r1"]}
    assert found.train == {"r4": ["r4"]}
    assert found.dropped == {"like a held-out row": 2}


def test_a_duplicate_in_the_holdout_keeps_its_likes_out_too() -> None:
    rows = [light(1, "play hurt", "a"), light(2, "play hurt", "b"), light(3, "play hurt", "a")]
    found = chosen(rows, drawn=Draw(frozenset({"a"}), frozenset({"s1", "s2"})))
    assert found.train == {} and list(found.holdout) == ["r2"]


def test_a_held_out_session_is_never_trained_on_again() -> None:
    rows = [light(1, TEXTS[0], session="gone"), light(2, TEXTS[1], slice="b", session="new"), light(3, TEXTS[2])]
    held, drawn = Held(frozenset({"a"}), frozenset({"gone"})), Draw(frozenset({"c"}), frozenset({"new"}))
    found = chosen(rows, held, drawn)
    assert list(found.train) == ["r3"] and found.holdout == {}
    assert found.dropped == {"of a held-out session": 2}


def test_a_slice_that_waits_for_the_holdout_is_not_trained_on() -> None:
    found = chosen([light(1, TEXTS[0], slice="small"), light(2, TEXTS[1])], drawn=Draw(waiting={"small": 1}))
    assert list(found.train) == ["r2"]
    assert found.dropped == {"waiting for more of its slice": 1}


@given(
    st.permutations(
        [light(n, TEXTS[n % 5], "ab"[n // 7 % 2], session=f"s{n % 4}", time=float(n // 3)) for n in range(20)]
    )
)
def test_the_selection_does_not_depend_on_the_order_of_rows(rows: list[Light]) -> None:
    drawn = Draw(frozenset({"a"}), frozenset({"s1"}))
    assert chosen(rows, drawn=drawn) == chosen(sorted(rows, key=lambda row: row.row_id), drawn=drawn)
