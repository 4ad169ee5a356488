"""From one record with feedback to one row: which answer to learn, written in one canonical way. Plain functions."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from cluster.records import Message

OPTIONS = ("tool_choice", "response_format", "parallel_tool_calls", "chat_template_kwargs")
"""What of the request's parameters decides prompt and well-formed answers; evaluation sends them again."""

Feedback = tuple[float, Message | None, str]
"""Score, correction, source."""


class Logged(msgspec.Struct):
    """What a row is made of, out of a `cluster.records.Record`, whose JSON this reads in a third of the time."""

    request_id: str
    time: float
    session: str
    version: str = ""
    messages: list[Message] = []
    tools: msgspec.Raw = msgspec.Raw(b"[]")
    """As they stand in the log: an application offers the same ones in all its requests."""
    sampling: dict[str, Any] = {}
    answer: Message | None = None
    finish_reason: str | None = None
    stored: bool = True
    disconnected: bool = False
    status: int = 200
    error: str | None = None


class Unusable(Exception):
    """Why a record is left out; the message is counted in the dataset's manifest."""


def choose(record: Logged, ranked: list[Feedback], min_score: float) -> Message:
    """What the assistant should have said, by feedback with the most trusted source first.

    The most trusted source judges the answer: its correction is the target, else the answer itself if the score is high
    enough. If not, the answer is out, and the next source that gave a correction is heard.
    """
    whole(record)
    score, correction, _ = ranked[0]
    if correction is None and score >= min_score:
        if record.answer is None or record.finish_reason == "length":
            raise Unusable("answer cut off")
        return record.answer
    corrections = [correction for _, correction, _ in ranked if correction is not None]
    if not corrections:
        raise Unusable("low score, no correction")
    return corrections[0]


def given_options(record: Logged) -> dict[str, Any]:
    return {name: record.sampling[name] for name in OPTIONS if name in record.sampling}


def whole(record: Logged) -> None:
    """Raises `Unusable` for what is no whole exchange of texts."""
    if not record.stored:
        raise Unusable("not stored")
    if record.error is not None or record.status >= 400:
        raise Unusable("error")
    if record.disconnected:
        raise Unusable("disconnected")
    if not record.messages:
        raise Unusable("no chat messages")
    if any(
        isinstance(message.get("content"), list) and not _only_text(message["content"]) for message in record.messages
    ):
        raise Unusable("not text")


def target(message: Message, tools: list[dict[str, Any]]) -> Message:
    """The same answer in canonical form: arguments in the order of the tool's schema, call ids by position.

    One meaning has then one spelling. A model that is taught `{"a": 1, "b": 2}` on Monday and `{"b": 2, "a": 1}` on
    Tuesday learns neither. Raises `Unusable` for calls that could not be executed.
    """
    schemas = {
        tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools if "function" in tool
    }
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    calls = []
    for place, call in enumerate(message.get("tool_calls") or []):
        function = call.get("function") or {}
        name = function.get("name")
        if name not in schemas:
            raise Unusable("calls a tool that was not offered")
        arguments = ordered(_arguments(function.get("arguments")), schemas[name])
        text = json.dumps(arguments, ensure_ascii=False)
        calls.append({"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": text}})
    if not calls and not (content or "").strip():
        raise Unusable("empty answer")
    answer: Message = {"role": "assistant", "content": content or ""}
    return {**answer, "tool_calls": calls} if calls else answer


def ordered(value: Any, schema: Any) -> Any:
    """A JSON value with the keys of its objects in the schema's order; keys that the schema lacks come last, sorted."""
    if isinstance(value, dict) and isinstance(schema, dict):
        properties = schema.get("properties") or {}
        keys = [key for key in properties if key in value] + sorted(key for key in value if key not in properties)
        return {key: ordered(value[key], properties.get(key)) for key in keys}
    if isinstance(value, list) and isinstance(schema, dict):
        return [ordered(item, schema.get("items")) for item in value]
    return value


def slice_of(answer: Message) -> str:
    """The tool that an answer calls first, or `text`."""
    calls = answer.get("tool_calls")
    return calls[0]["function"]["name"] if calls else "text"


def spoken(messages: list[Message]) -> str:
    """What was said in a conversation, without the system's part, which is the same in all of an application's."""
    texts = []
    for message in messages:
        if message.get("role") not in ("system", "developer"):
            content = message.get("content") or ""
            parts = content if isinstance(content, list) else [{"text": content}]
            texts += [str(part.get("text", "")) for part in parts if isinstance(part, dict)]
            texts += [str((call.get("function") or {}).get("arguments")) for call in message.get("tool_calls") or []]
    return "\n".join(texts)


def _arguments(arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            raise Unusable("arguments are not JSON") from None
    if not isinstance(arguments, dict):
        raise Unusable("arguments are not JSON")
    return arguments


def _only_text(parts: list[Any]) -> bool:
    return all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts)
