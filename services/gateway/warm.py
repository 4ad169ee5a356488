"""Warming an engine up before its replica is ready: the first constrained request compiles, 19 s the first time."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message

from services.gateway.call import never, replay
from services.gateway.parameters import CHAT

_TOOL = {
    "type": "function",
    "function": {
        "name": "warm_up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


async def warm_up(engine: ASGIApp, model: str) -> float:
    """One request that forces a tool call; seconds that it took. Raises `RuntimeError` if it fails."""
    started = time.perf_counter()
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "warm up"}],
        "tools": [_TOOL],
        "tool_choice": "required",
        "max_tokens": 8,
        "temperature": 0,
    }
    status, answer = await ask(engine, CHAT, body)
    if status != 200:
        raise RuntimeError(
            f"the engine does not answer its warm-up request: {status} {answer.decode(errors='replace')[:500]}"
        )
    return time.perf_counter() - started


async def ask(app: ASGIApp, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """POST to an ASGI app in this process; its status and body."""
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
        "client": None, "server": None,
    }  # fmt: skip
    status, parts = 0, []

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app(scope, replay(content, never), send)
    return status, b"".join(parts)
