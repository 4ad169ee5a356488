"""A replica as it serves users, but for the engine: that one says so many words at such a pace as it is asked to.

A fault of the cluster is the same behind any engine, and this one starts in 3 s instead of 30. It stands where
that of the benchmarks does (`benchmarks/fake.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from ray.serve import Application
from starlette.types import Send

from benchmarks import fake


def asking(words: int, pause_s: float = 0, until: Path | None = None) -> str:
    """The prompt for an answer of so many words with such pauses, and of more until there is such a file."""
    return json.dumps({"words": words, "pause_s": pause_s, "until": str(until) if until else None})


class Engine(fake.Engine):
    """Speaks vLLM's chat completions; each word is the id of its process. What is no `asking` gets three at once."""

    async def answer(self, body: dict[str, Any], send: Send) -> None:
        try:
            asked = json.loads(body["messages"][-1]["content"])
            words, pause_s, until = int(asked["words"]), float(asked["pause_s"]), asked["until"]
        except (ValueError, KeyError, TypeError):
            words, pause_s, until = 3, 0.0, None
        word = f"{os.getpid()} "
        named = {"id": "chatcmpl-talker", "created": int(time.time()), "model": body["model"]}
        usage = {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1}
        if not body.get("stream"):
            await asyncio.sleep(words * pause_s)
            choice = {"index": 0, "message": {"role": "assistant", "content": word * words}, "finish_reason": "stop"}
            said = {**named, "object": "chat.completion", "choices": [choice], "usage": usage}
            await send(_start("application/json"))
            return await send({"type": "http.response.body", "body": json.dumps(said).encode()})
        await send(_start("text/event-stream"))
        named["object"] = "chat.completion.chunk"
        number, finish = 0, None
        while not finish:
            await asyncio.sleep(pause_s)
            number += 1
            finish = "stop" if number >= words and (until is None or os.path.exists(until)) else None
            await send(
                _event({**named, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": finish}]})
            )
        await send(_event({**named, "choices": [], "usage": usage}))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _start(kind: str) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]}


def _event(data: dict[str, Any]) -> dict[str, Any]:
    return {"type": "http.response.body", "body": f"data: {json.dumps(data)}\n\n".encode(), "more_body": True}


class Talker(fake.StandIn):
    engine = Engine


def build(args: dict[str, Any]) -> Application:
    """`services.serving:build` with a talker."""
    return Talker.build(args)
