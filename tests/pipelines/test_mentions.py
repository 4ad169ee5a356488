"""What a row may become when its arguments change places with those of other rows."""

from __future__ import annotations

import json
import random
from typing import Any

from pipelines.artifacts import Row
from pipelines.mentions import Mentions


def row(text: str, *calls: tuple[str, dict[str, Any]], origin: str = "log", before: str = "hello") -> Row:
    said = [{"type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for n, a in calls]
    messages = [
        {"role": "user", "content": before},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": text},
        {"role": "assistant", "content": "", "tool_calls": said},
    ]
    return Row(text, messages, [], [text], origin, text, calls[0][0])


def weather(city: str, **rest: Any) -> tuple[str, dict[str, Any]]:
    return "weather", {"city": city, **rest}


def texts(rows: list[Row], of: Row) -> set[str]:
    """Every form that many draws give a row, as 'request -> arguments'."""
    mentions, dice = Mentions(rows), random.Random(0)
    varied = [mentions.vary(of, dice) for _ in range(200)]
    assert all(v.messages[:2] == of.messages[:2] and v.record_ids == of.record_ids for v in varied)
    return {
        " -> ".join([v.messages[-2]["content"], *(c["function"]["arguments"] for c in v.messages[-1]["tool_calls"])])
        for v in varied
    }


ROME, OSLO = row("weather in Rome at noon", weather("Rome", at="noon")), row("Oslo at nine", weather("Oslo", at="nine"))


def test_a_value_changes_in_the_request_and_in_the_call_or_in_neither():
    assert texts([ROME, OSLO], ROME) == {
        f'weather in {city} at {at} -> {{"city": "{city}", "at": "{at}"}}'
        for city in ("Rome", "Oslo")
        for at in ("noon", "nine")
    }


def test_values_of_other_tools_arguments_and_of_replay_stay_where_they_are():
    others = [
        row("book Paris", ("book", {"city": "Paris"})),
        row("weather at dusk", weather("here", at="dusk")),
        row("weather in Lima", weather("Lima"), origin="replay"),
    ]
    said = " ".join(texts([OSLO, *others], OSLO))
    assert "here" in said and "dusk" in said
    assert "Paris" not in said and "Lima" not in said


def test_a_row_whose_words_may_mean_something_else_stays_as_it_is():
    for unclear in (
        row("Rome or Rome?", weather("Rome")),  # twice
        row("romeo", weather("rome")),  # inside a word
        row("weather there", weather("Rome")),  # not said at all
        row("and in Rome?", weather("Rome"), before="I am in Rome"),  # said before, too
        row('and in "Roma" now?', weather('in "Roma" now'), before='I am in "Roma" now'),  # in quotes
        row('and in "Roma" now?', weather('in "Roma" now'), before=json.dumps({"city": 'in "Roma" now'})),
        row("weather in New York", weather("New York", at="York")),  # one within the other
        row("weather in 7", ("weather", {"city": 7})),  # not a text
    ):
        assert len(texts([ROME, OSLO, unclear], unclear)) == 1, unclear.messages[-2]


def test_each_call_of_an_answer_gets_its_own():
    both = row("weather in Rome and book Oslo", weather("Rome"), ("book", {"city": "Oslo"}))
    said = texts([both, row("book Bern", ("book", {"city": "Bern"}))], both)
    assert 'weather in Rome and book Bern -> {"city": "Rome"} -> {"city": "Bern"}' in said


def test_a_mixture_is_the_same_for_the_same_seed_and_leaves_the_other_share_alone():
    rows = [row(f"weather in c{n} now", weather(f"c{n}")) for n in range(200)]
    mentions = Mentions(rows)
    assert (
        mentions.mixture(rows, 0.5, "0-1") == mentions.mixture(rows, 0.5, "0-1") != mentions.mixture(rows, 0.5, "0-2")
    )
    changed = sum(new != old for new, old in zip(mentions.mixture(rows, 0.5, "0-1"), rows, strict=True))
    assert 25 < changed < 75  # half of the half: each value is replaced every other time
    assert mentions.mixture(rows, 0, "0-1") == rows
