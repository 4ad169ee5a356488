"""Calls count for a minute, for their principal and tool."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.agents.rates import Rates


def test_calls_count_for_one_minute() -> None:
    rates = Rates()
    for second in (0.0, 30.0, 59.0):
        rates.note("ada", "sql", second)
    assert [rates.count("ada", "sql", now) for now in (59.0, 60.0, 89.9, 90.0, 119.0)] == [3, 2, 2, 1, 0]


def test_another_principal_or_tool_has_a_count_of_its_own() -> None:
    rates = Rates()
    rates.note("ada", "sql", 0.0)
    assert rates.count("bob", "sql", 1.0) == rates.count("ada", "python", 1.0) == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(0, 50)), max_size=30))
def test_counts_are_what_a_search_of_all_calls_would_find(calls: list[tuple[str, str, float]]) -> None:
    rates, now, noted = Rates(), 0.0, []
    for principal, tool, later in calls:
        now += later
        noted.append((principal, tool, now))
        rates.note(principal, tool, now)
        for who in "ab":
            found = [t for p, n, t in noted if (p, n) == (who, "x") and t > now - 60]
            assert rates.count(who, "x", now) == len(found)
