from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import holdout
from pipelines.holdout import Draw, Held, draw
from pipelines.recipe import HoldoutSettings

SETTINGS = HoldoutSettings(fraction=0.1, min_rows=5, max_rows=40)


def sessions(name: str, count: int, rows: int = 1) -> list[tuple[str, str]]:
    return [(f"{name}-{number}", name) for number in range(count) for _ in range(rows)]


def test_each_slice_gives_its_share_by_whole_sessions() -> None:
    drawn = draw(sessions("a", 100) + sessions("b", 50, rows=4), Held(), SETTINGS, "assistant")
    held = {name: sum(session.startswith(name) for session in drawn.sessions) for name in "ab"}
    assert drawn.slices == {"a", "b"}
    assert held == {"a": 10, "b": 5}  # 10 of 100 rows; 20 of 200 rows, four in each session
    assert drawn.waiting == {}


def test_the_whole_holdout_has_an_upper_limit_which_slices_share() -> None:
    rows = sessions("a", 1000) + sessions("b", 1000)
    assert len(draw(rows, Held(), SETTINGS, "assistant").sessions) == 40


def test_a_small_slice_waits_until_it_can_spare_rows() -> None:
    drawn = draw(sessions("a", 100) + sessions("small", 19), Held(), SETTINGS, "assistant")
    assert drawn.slices == {"a"}
    assert drawn.waiting == {"small": 19}


def test_a_slice_of_one_session_waits_for_another() -> None:
    assert draw(sessions("a", 1, rows=100), Held(), SETTINGS, "assistant").waiting == {"a": 100}


def test_one_large_session_is_not_taken() -> None:
    rows = [("large", "a")] * 60 + sessions("a", 40)
    drawn = draw(rows, Held(), SETTINGS, "assistant")
    assert "large" not in drawn.sessions
    assert len(drawn.sessions) == 10


def test_a_slice_joins_once_and_a_new_tool_joins_later() -> None:
    first = draw(sessions("a", 100), Held(), SETTINGS, "assistant")
    held = Held(first.slices, first.sessions)
    again = draw(sessions("a", 500) + sessions("new", 100), held, SETTINGS, "assistant")
    assert again.slices == {"new"}
    assert all(session.startswith("new") for session in again.sessions)


def test_rows_of_held_out_sessions_do_not_count_as_usable() -> None:
    held = Held(frozenset({"a"}), frozenset(f"b-{number}" for number in range(15)))
    assert draw(sessions("b", 30), held, SETTINGS, "assistant").waiting == {"b": 15}


@given(st.permutations(sessions("a", 40) + sessions("b", 15, rows=2)))
def test_the_draw_does_not_depend_on_the_order_of_rows(rows: list[tuple[str, str]]) -> None:
    assert draw(rows, Held(), SETTINGS, "x") == draw(sorted(rows), Held(), SETTINGS, "x")


def row(name: str) -> dict[str, object]:
    return {"row_id": name, "messages": "[]", "tools": "[]", "session": f"s-{name}", "record_ids": [name]}


def test_what_is_frozen_stays_and_more_is_added(tmp_path: Path) -> None:
    assert holdout.read(tmp_path, "assistant") == Held()
    first = holdout.append(tmp_path, "assistant", Draw(frozenset({"a"}), frozenset({"s-1"})), [row("1")])
    second = holdout.append(tmp_path, "assistant", Draw(frozenset({"b"}), frozenset({"s-2"})), [row("2")])
    assert second == holdout.read(tmp_path, "assistant")
    assert second.slices == {"a", "b"} and second.sessions == {"s-1", "s-2"}
    assert second.rows[: len(first.rows)] == first.rows
    assert second.digest != first.digest
    assert holdout.read(tmp_path, "other") == Held()


def test_two_processes_cannot_freeze_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holdout.append(tmp_path, "assistant", Draw(), [row("1")])
    monkeypatch.setattr(Path, "glob", lambda *_: [])  # the other one looked before we wrote
    with pytest.raises(FileExistsError):
        holdout.append(tmp_path, "assistant", Draw(), [row("2")])
