"""Forms of other people: what they mean, and what is wrong with a broken line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.log.formats import entries, read
from cluster.records import Feedback, Record
from tests.cluster.log.entries import feedback, record

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
USER = {"role": "user", "content": "weather in Rome?"}
RESPONSE = {
    "id": "chatcmpl-1",
    "created": 1700000000,
    "model": "gpt-5",
    "choices": [
        {"message": {"role": "assistant", "content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 7},
}


def logged(row: dict) -> Record:
    (entry,) = entries(row, "assistant", now=5.0)
    assert isinstance(entry, Record)
    return entry


def test_a_request_with_its_response_is_a_record() -> None:
    entry = logged(
        {"request": {"model": "m", "messages": [USER], "tools": [TOOL], "temperature": 0.2}, "response": RESPONSE}
    )
    assert (entry.messages, entry.tools, entry.sampling) == ([USER], [TOOL], {"temperature": 0.2})
    assert entry.answer == {"role": "assistant", "tool_calls": [CALL]}
    assert (entry.time, entry.version, entry.finish_reason) == (1700000000, "gpt-5", "tool_calls")
    assert (entry.prompt_tokens, entry.completion_tokens, entry.alias) == (12, 7, "assistant")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER], "tools": [TOOL], "response": RESPONSE},
        {"messages": [USER], "tools": [TOOL], **RESPONSE},
        {"messages": json.dumps([USER]), "tools": json.dumps([TOOL]), "response": json.dumps(RESPONSE)},
    ],
)
def test_the_same_conversation_is_the_same_record_in_every_form(row: dict) -> None:
    entry = logged(row)
    assert (
        entry.request_id == logged({"request": {"messages": [USER], "tools": [TOOL]}, "response": RESPONSE}).request_id
    )
    assert entry.sampling == {}


def test_a_response_may_be_plain_text() -> None:
    assert logged({"messages": [USER], "response": "Sunny."}).answer == {"role": "assistant", "content": "Sunny."}


def test_a_fine_tuning_line_is_a_record_and_praise() -> None:
    answer = {"role": "assistant", "tool_calls": [CALL], "weight": 1}
    found = entries({"messages": [USER, answer], "tools": [TOOL]}, "assistant", now=5.0)
    example, praise = found
    assert isinstance(example, Record) and isinstance(praise, Feedback)
    assert example.messages == [USER] and example.answer == {"role": "assistant", "tool_calls": [CALL]}
    assert (praise.request_id, praise.score, praise.source, praise.time) == (example.request_id, 1, "import", 5.0)


def test_turns_of_one_conversation_share_a_session() -> None:
    later = [USER, {"role": "assistant", "content": "Sunny."}, {"role": "user", "content": "and tomorrow?"}]
    first, second = logged({"messages": [USER], "response": "Sunny."}), logged({"messages": later, "response": "Rain."})
    assert first.session == second.session and first.request_id != second.request_id
    assert logged({"messages": [USER], "response": "Sunny.", "session": "s1"}).session == "s1"


def test_our_own_rows_come_back_as_they_were() -> None:
    assert entries(record(1).model_dump(), "other", now=5.0) == [record(1)]
    assert entries(feedback(1).model_dump(), "other", now=5.0) == [feedback(1)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{broken", "not JSON"),
        ('"text"', "expected an object like"),
        ("{}", "found the keys \\(none\\)"),
        ('{"text": "hello"}', "found the keys text"),
        ('{"messages": "hello"}', "messages is text, but not JSON"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}', 'role "assistant"'),
        ('{"messages": [{"role": "king", "content": "a"}, {"role": "assistant", "content": "b"}]}', "role is one of"),
        (
            '{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}]}',
            "content of a message",
        ),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]}', "neither content nor tool_calls"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [{}]}',
            "each tool",
        ),
        ('{"messages": [{"role": "user", "content": "a"}], "response": {"choices": []}}', "choices\\[0\\].message"),
        ('{"messages": [{"role": "user", "content": "a"}], "response": "b", "created": "May"}', "created must be"),
        ('{"kind": "feedback", "request_id": "r", "time": 1, "principal": "p", "score": 7}', "score"),
        ('{"kind": "tune"}', "kind|tag"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "logs.jsonl"
    good = json.dumps({"messages": [USER, {"role": "assistant", "content": "Sunny."}]})
    path.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(ValueError, match=f"logs.jsonl, line 3: .*({what})"):
        list(read(path, "assistant", now=5.0))


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "logs.jsonl"
    path.write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(ValueError, match="line 1: not UTF-8"):
        list(read(path, "assistant", now=5.0))


def test_a_truncated_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "logs.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="not readable as Parquet"):
        list(read(path, "assistant", now=5.0))
