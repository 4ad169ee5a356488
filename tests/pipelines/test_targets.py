from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.records import Message
from pipelines.targets import Unusable, choose, ordered, slice_of, spoken, target
from tests.pipelines.logs import TOOLS, call, record, said

RIGHT = call("play", song="Hurt")


def test_a_good_answer_is_its_own_target() -> None:
    answered = record(1)
    assert choose(answered, [(0.8, None, "user")], 0.75) == answered.answer


def test_a_correction_wins_over_any_score() -> None:
    assert choose(record(1), [(1.0, RIGHT, "user")], 0.75) == RIGHT


def test_a_less_trusted_source_may_correct_but_not_approve() -> None:
    assert choose(record(1), [(0.1, None, "user"), (0.2, RIGHT, "judge")], 0.75) == RIGHT
    with pytest.raises(Unusable, match="low score"):
        choose(record(1), [(0.1, None, "user"), (1.0, None, "judge")], 0.75)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stored": False}, "not stored"),
        ({"status": 500}, "error"),
        ({"error": "engine died"}, "error"),
        ({"disconnected": True}, "disconnected"),
        ({"messages": []}, "no chat messages"),
        ({"answer": None}, "answer cut off"),
        ({"finish_reason": "length"}, "answer cut off"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text"),
    ],
)
def test_what_is_no_whole_exchange_is_left_out(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Unusable, match=why):
        choose(record(1, **changes), [(1.0, None, "user")], 0.75)


def test_a_cut_off_answer_can_still_be_corrected() -> None:
    assert choose(record(1, finish_reason="length"), [(0.0, RIGHT, "user")], 0.75) == RIGHT


def test_arguments_come_in_the_order_of_the_schema() -> None:
    one = target(call("get_weather", day="today", city="Oslo"), TOOLS)
    other = target(call("get_weather", city="Oslo", day="today"), TOOLS)
    assert one == other
    assert one["tool_calls"][0] == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Oslo", "day": "today"}'},
    }
    assert one["content"] == ""


def test_arguments_may_come_as_an_object_and_keep_their_letters() -> None:
    message = {"tool_calls": [{"function": {"name": "play", "arguments": {"song": "Für Elise"}}}]}
    assert json.loads(target(message, TOOLS)["tool_calls"][0]["function"]["arguments"]) == {"song": "Für Elise"}
    assert "ü" in target(message, TOOLS)["tool_calls"][0]["function"]["arguments"]


def test_nested_objects_are_ordered_too_and_unknown_keys_come_last() -> None:
    inner: dict[str, Any] = {"properties": {"x": {}, "y": {}}}
    schema = {"properties": {"b": inner, "a": {"items": inner}}}
    value = {"z": 1, "c": 2, "a": [{"y": 1, "x": 2}], "b": {"y": 3, "x": 4}}
    assert json.dumps(ordered(value, schema)) == '{"b": {"x": 4, "y": 3}, "a": [{"x": 2, "y": 1}], "c": 2, "z": 1}'


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (call("fly", to="moon"), "not offered"),
        ({"tool_calls": [{"function": {"name": "play", "arguments": "{"}}]}, "not JSON"),
        ({"tool_calls": [{"function": {"name": "play", "arguments": "[1]"}}]}, "not JSON"),
        ({"role": "assistant", "content": " "}, "empty"),
        ({}, "empty"),
    ],
)
def test_what_could_not_be_executed_is_no_target(message: Message, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        target(message, TOOLS)


def test_a_slice_is_the_tool_that_is_called_or_text() -> None:
    assert slice_of(target(RIGHT, TOOLS)) == "play"
    assert slice_of(target(said("hello"), TOOLS)) == "text"


def test_what_the_system_says_is_not_what_was_said() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        call("play", song="Hurt"),
        {"role": "tool", "content": "done"},
    ]
    assert spoken(messages) == 'hi\n\n{"song": "Hurt"}\ndone'
