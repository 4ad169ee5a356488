"""The log's entries in other people's forms: OpenAI's chat logs and fine-tuning files, JSONL or Parquet; and in ours.

ours         {"kind": "record", "feedback" or "step", ...}, as `trivium log export` writes it
chat log     {"request": {...}, "response": {...}}, or the request's keys beside "response" or "choices"
fine-tuning  {"messages": [...], "tools": [...]}: the last message, the assistant's, is the answer, and a good one
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.log.entries import decode
from cluster.records import Entry, Feedback, Message, Record, Step
from cluster.settings import explain

SOURCE = "import"
"""`source` of the feedback that a fine-tuning file implies, and `principal` of everything that is imported."""
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
NOT_SAMPLING = {"messages", "tools", "model", "stream", "stream_options", "user", "metadata", "store"}
"""Keys of a request that have a place of their own in a record, or none."""
ROW_KEYS = {"request", "response", "choices", "usage", "id", "object", "created", "system_fingerprint", "session"}
FORMS = '{"messages": [...]}, {"request": {...}, "response": {...}} or a row of `trivium log export`'


def read(path: Path, alias: str, now: float) -> Iterator[Entry]:
    """The entries of one file. Raises `ValueError` that names the file, the line (or row) and what is wrong with it."""
    for where, row in _rows(path):
        try:
            yield from entries(row, alias, now)
        except ValidationError as error:
            raise ValueError(f"{path}, {where}: {explain(error)}") from None
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from None


def entries(row: Any, alias: str, now: float) -> list[Entry]:
    """What one row says. `now`: the time of what carries none. Raises `ValueError`."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object like {FORMS}")
    if "kind" in row:
        return [decode(row["body"] if isinstance(row.get("body"), str) else json.dumps(row))]
    row = {key: _from_text(key, value) for key, value in row.items() if value is not None}
    if "request" in row or "response" in row or "choices" in row:
        return [_logged(row, alias, now)]
    if "messages" in row:
        return _example(row, alias, now)
    raise ValueError(f"expected {FORMS}; found the keys {', '.join(sorted(row)) or '(none)'}")


def key(entry: Entry) -> tuple[str, str, str | None, float | None]:
    """What makes an entry the same as another. Imported feedback has no time of its own."""
    match entry:
        case Record():
            return entry.kind, entry.request_id, None, None
        case Step():  # of one writer: after a failed write the same step may be there twice
            return entry.kind, entry.request_id, entry.source, None
    return entry.kind, entry.request_id, entry.source, None if entry.source == SOURCE else entry.time


def example(record: Record, correction: Message | None) -> dict[str, Any] | None:
    """A line of a fine-tuning file: the correction if there is one, else the answer; None where there is neither."""
    answer = correction or record.answer
    if answer is None or not record.messages:
        return None
    return {"messages": [*record.messages, answer], **({"tools": record.tools} if record.tools else {})}


def _logged(row: dict[str, Any], alias: str, now: float) -> Record:
    request = row.get("request", {key: value for key, value in row.items() if key not in ROW_KEYS})
    response = row.get("response", row)
    if isinstance(response, str):
        response = {"choices": [{"message": {"role": "assistant", "content": response}}]}
    for name, value in (("request", request), ("response", response)):
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object")
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    answer = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or answer is None:
        raise ValueError("the response needs choices[0].message")
    created = response.get("created", row.get("created", now))
    if isinstance(created, bool) or not isinstance(created, int | float):
        raise ValueError("created must be Unix seconds")
    usage = response.get("usage") or {}
    return _record(
        request,
        answer,
        alias,
        float(created),
        mark=str(response.get("id", "")),
        session=row.get("session"),
        version=response.get("model") or request.get("model"),
        alternatives=[
            _message(other["message"]) for other in choices[1:] if isinstance(other, dict) and "message" in other
        ],
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        sampling={key: value for key, value in request.items() if key not in NOT_SAMPLING},
    )


def _example(row: dict[str, Any], alias: str, now: float) -> list[Entry]:
    messages = row["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise ValueError("messages must be a list that ends with the assistant's answer")
    answer = messages[-1]
    if not isinstance(answer, dict) or answer.get("role") != "assistant":
        raise ValueError('the last message must be the answer, of role "assistant"')
    record = _record({**row, "messages": messages[:-1]}, answer, alias, now, session=row.get("session"))
    feedback = Feedback(request_id=record.request_id, time=now, principal=SOURCE, source=SOURCE, score=1)
    return [record, feedback]


def _record(
    request: dict[str, Any],
    answer: Any,
    alias: str,
    created: float,
    mark: str = "",
    session: str | None = None,
    version: str | None = None,
    **rest: Any,
) -> Record:
    messages = [_message(message) for message in _list(request, "messages")]
    if not messages:
        raise ValueError("messages must not be empty")
    tools = [_tool(tool) for tool in _list(request, "tools")]
    answer = _message({"role": "assistant", **answer} if isinstance(answer, dict) else answer)
    return Record(
        # From the content: the same conversation is the same entry, in whatever file and form it comes again.
        request_id=f"import-{_digest([messages, tools, answer, mark])}",
        time=created,
        principal=SOURCE,
        # Rows that begin alike are turns of one conversation, as far as a file without sessions can tell.
        session=str(session or f"import-{_digest(_opening(messages))}"),
        endpoint="/v1/chat/completions",
        alias=alias,
        version=version or SOURCE,
        messages=messages,
        tools=tools,
        answer=answer,
        latency_s=0,
        **rest,
    )


def _opening(messages: list[Message]) -> list[Message]:
    for place, message in enumerate(messages):
        if message["role"] == "user":
            return messages[: place + 1]
    return messages


def _message(message: Any) -> Message:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ValueError(f"each message must be an object whose role is one of {', '.join(sorted(ROLES))}")
    if not isinstance(message.get("content"), str | list | None):
        raise ValueError(f"content of a message of role {message['role']} must be text or a list of parts")
    if message.get("content") is None and not message.get("tool_calls") and not message.get("function_call"):
        raise ValueError(f"a message of role {message['role']} has neither content nor tool_calls")
    # `weight` steers OpenAI's fine-tuning and is no part of a conversation.
    return {name: value for name, value in message.items() if value is not None and name != "weight"}


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError('each tool must be an object like {"type": "function", "function": {"name": ...}}')
    return tool


def _list(request: dict[str, Any], name: str) -> list[Any]:
    value = request.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with the words that name its place."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            yield from _parquet_rows(path)
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except UnicodeDecodeError:
                    raise ValueError(f"{path}, line {number}: not UTF-8") from None
                except json.JSONDecodeError as error:
                    what = f"{error.msg} at column {error.colno}"
                    raise ValueError(f"{path}, line {number}: not JSON ({what}); one object a line") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", _without_nulls(row)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}, after row {number}: not readable as Parquet ({error})") from None


def _without_nulls(value: Any) -> Any:
    """Arrow gives every struct every key that one of them has."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _from_text(name: str, value: Any) -> Any:
    """Parquet files often hold nested values as JSON text. A response may be plain text, too."""
    if isinstance(value, str) and name in {"messages", "tools", "request", "response", "choices", "usage"}:
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            if name == "response":
                return value
            raise ValueError(f"{name} is text, but not JSON") from None
        return value if name == "response" and not isinstance(parsed, dict) else parsed
    return value
