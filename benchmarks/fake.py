"""An engine that answers at once, in vLLM's words: what is left of a request's time is the path's own.

In a replica this module stands where `services.engine` would (`build`), so that everything else is what serves users:
HAProxy, Serve's server, the gateway's chain, the log. In this process it is the innermost app of a chain.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.serve import Application
from starlette.types import Receive, Scope, Send

from benchmarks.load import TOKENS
from services import serving

WORD = " word"


class FakeEngine:
    """An ASGI app that says `TOKENS` words, one message for each, as vLLM sends them."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(engine_client=SimpleNamespace(errored=False))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        body = json.loads((await receive())["body"])
        named = {"id": "chatcmpl-fake", "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            await self._stream(named, send)
        else:
            await self._whole(named, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    async def _stream(self, named: dict[str, Any], send: Send) -> None:
        named = {**named, "object": "chat.completion.chunk"}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})

        async def event(data: dict[str, Any]) -> None:
            text = json.dumps({**named, **data}, separators=(",", ":"))
            await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})

        await event({"choices": [choice({"role": "assistant", "content": ""}, None)]})
        for number in range(TOKENS):
            finish = "length" if number == TOKENS - 1 else None
            await event({"choices": [choice({"content": WORD}, finish)]})
        await event({"choices": [], "usage": usage()})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _whole(self, named: dict[str, Any], send: Send) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": WORD * TOKENS, "refusal": None, "tool_calls": []}
        said = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        answer = {**named, "object": "chat.completion", "choices": [said], "usage": usage()}
        content = json.dumps(answer, separators=(",", ":")).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def usage() -> dict[str, int]:
    return {"prompt_tokens": 120, "total_tokens": 120 + TOKENS, "completion_tokens": TOKENS}


class VllmAdapters:
    """Has every adapter already."""

    def __init__(self, *_: Any) -> None: ...

    async def load(self, version: str) -> None: ...

    async def unload(self, version: str) -> None: ...


class Server:
    """What a replica starts instead of vLLM."""

    async def start(self) -> None: ...

    async def check_health(self) -> None: ...

    async def shutdown(self) -> None: ...

    async def __serve_build_asgi_app__(self) -> FakeEngine:
        await asyncio.sleep(0)
        return FakeEngine()


def server(settings: serving.ServingSettings, source: str, gpu: bool) -> Server:
    return Server()


class FakeGateway(serving.Gateway):
    """The replica that serves users, but for the engine."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: dict[str, Any], source: str, gpu: bool
    ) -> None:
        here = sys.modules[__name__]
        sys.modules["services.engine"] = here
        sys.modules["services"].engine = here  # type: ignore[attr-defined]
        await super().__init__(settings, source, gpu)


def build(args: dict[str, Any]) -> Application:
    """`services.serving:build`, with this engine."""
    with patch.object(serving, "Gateway", FakeGateway):
        return serving.build(args)
