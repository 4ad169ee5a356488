"""One shape for every endpoint: chat messages and chat tools, whatever form the request and the answer came in."""

from __future__ import annotations

import json
from typing import Any

from cluster.records import Message
from services.gateway.parameters import CHAT, COMPLETIONS

_CONTENT = frozenset(
    {"model", "messages", "tools", "prompt", "input", "instructions", "stream", "stream_options", "store", "user"}
)
_MAY_QUOTE = frozenset({"metadata", "response_format", "structured_outputs", "text", "stop", "suffix", "tool_choice"})


def asked(path: str, body: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
    """The request's messages and tools."""
    if path == CHAT:
        return body["messages"], body.get("tools", [])
    if path == COMPLETIONS:
        return [{"role": "user", "content": body["prompt"]}], []
    system = [{"role": "system", "content": body["instructions"]}] if isinstance(body.get("instructions"), str) else []
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return system + [message for item in items if (message := _message(item))], [
        _tool(tool) for tool in body.get("tools", [])
    ]


def sampling(body: dict[str, Any], stored: bool) -> dict[str, Any]:
    """Everything else that shaped the answer; without what may quote a caller who wants nothing stored."""
    left_out = _CONTENT if stored else _CONTENT | _MAY_QUOTE
    return {name: value for name, value in body.items() if name not in left_out}


def message(text: str | None, calls: list[dict[str, Any]], reasoning: str | None = None) -> Message:
    """An assistant's message in the one form that streams and whole answers share."""
    answer: Message = {"role": "assistant", "content": text or (None if calls else "")}
    if calls:
        answer["tool_calls"] = calls
    if reasoning:
        answer["reasoning"] = reasoning
    return answer


def tool_call(identity: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return {"id": identity or "", "type": "function", "function": {"name": name or "", "arguments": text}}


def from_output(items: list[dict[str, Any]]) -> Message:
    """The assistant's message in the `output` of a Responses answer."""
    texts, calls, thoughts = [], [], []
    for item in items:
        match item.get("type"):
            case "message":
                texts.append(_text(item.get("content")))
            case "function_call":
                calls.append(tool_call(item.get("call_id"), item.get("name"), item.get("arguments")))
            case "reasoning":
                thoughts.append(_text(item.get("content")))
    return message("".join(texts), calls, "".join(thoughts))


def _message(item: dict[str, Any]) -> Message | None:
    match item.get("type", "message"):
        case "message":
            return {"role": str(item.get("role", "user")), "content": _text(item.get("content"))}
        case "function_call":
            return message(None, [tool_call(item.get("call_id"), item.get("name"), item.get("arguments"))])
        case "function_call_output":
            return {"role": "tool", "tool_call_id": str(item.get("call_id", "")), "content": _text(item.get("output"))}
        case _:
            return None


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
