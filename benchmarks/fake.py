"""An engine that answers at once, in vLLM's words: what is left of a request's time is the path's own.

In a replica it stands where `services.engine` would (`build`), so that everything else is what serves users: HAProxy,
Serve's server, the gateway's chain, the log. In this process it is the innermost app of a chain. What any engine needs
that stands there is `Engine` and `StandIn`.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.serve import Application
from starlette.types import Receive, Scope, Send

from benchmarks.load import TOKENS
from services import serving

WORD = " word"


class Engine(ABC):
    """vLLM's app, as far as a replica needs it."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(engine_client=SimpleNamespace(errored=False))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await self.answer(json.loads((await receive())["body"]), send)

    @abstractmethod
    async def answer(self, body: dict[str, Any], send: Send) -> None:
        """Answer a chat completion."""


class FakeEngine(Engine):
    """Says `TOKENS` words, one message for each, as vLLM sends them."""

    async def answer(self, body: dict[str, Any], send: Send) -> None:
        named = {"id": "chatcmpl-fake", "created": int(time.time()), "model": body["model"]}
        if body.get("stream"):
            await self._stream(named, send)
        else:
            await self._whole(named, send)

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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def start(self) -> None: ...

    async def check_health(self) -> None: ...

    async def shutdown(self) -> None: ...

    async def __serve_build_asgi_app__(self) -> Engine:
        return self._engine


class StandIn(serving.Gateway):
    """The replica that serves users, but for the engine."""

    engine: type[Engine]

    @classmethod
    def _import_engine(cls, gpu: bool) -> Any:
        return SimpleNamespace(server=lambda *_: Server(cls.engine()), VllmAdapters=VllmAdapters)

    @classmethod
    def build(cls, args: dict[str, Any]) -> Application:
        """`services.serving:build`, with this replica."""
        with patch.object(serving, "Gateway", cls):
            return serving.build(args)


class FakeGateway(StandIn):
    engine = FakeEngine


def build(args: dict[str, Any]) -> Application:
    """What Serve's configuration names."""
    return FakeGateway.build(args)
