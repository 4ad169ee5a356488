"""An engine that is not there: an ASGI app that speaks OpenAI as vLLM does, with answers that a test chooses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class FakeEngine:
    """Says `words`, or calls a tool if tools are offered; remembers what it was asked."""

    def __init__(self) -> None:
        self.words = ["Hello", ",", " world"]
        self.calls: list[tuple[str, str]] = []
        """(name, arguments) of tool calls to make instead of talking."""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.error: tuple[int, dict[str, Any]] | None = None
        self.crash = False
        self.pause: asyncio.Event | None = None
        """If set: after its first word the engine waits for this."""
        self.reached_pause = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/responses", self._respond, methods=["POST"]),
                Route("/tokenize", self._secret, methods=["POST"]),
            ]
        )

    async def _open(self, request: Request) -> tuple[dict[str, Any], Response | None]:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        if self.crash:
            raise RuntimeError("the engine is dead")
        if self.error:
            return body, JSONResponse(self.error[1], status_code=self.error[0])
        return body, None

    async def _chat(self, request: Request) -> Response:
        body, error = await self._open(request)
        if error:
            return error
        finish = "tool_calls" if self.calls else "stop"
        calls = [
            {"id": f"call-{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(self.calls)
        ]
        text = None if calls else "".join(self.words)
        message = {"role": "assistant", "content": text, "refusal": None, "tool_calls": calls, "reasoning": None}
        if not body.get("stream"):
            if self.pause:
                self.reached_pause.set()
                await self.pause.wait()
            choices = [
                {"index": i, "message": message, "logprobs": None, "finish_reason": finish, "stop_reason": None}
                for i in range(body.get("n", 1))
            ]
            return JSONResponse({"id": "chatcmpl-x", "model": body["model"], "choices": choices, "usage": USAGE})
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        for i, call in enumerate(calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            deltas.append({"tool_calls": [{"index": i, **call, "function": {"name": name, "arguments": ""}}]})
            half = len(arguments) // 2
            for part in (arguments[:half], arguments[half:]):
                deltas.append({"tool_calls": [{"index": i, "function": {"arguments": part}}]})
        deltas += [] if calls else [{"content": word} for word in self.words]
        return self._stream(body, "delta", deltas, {}, finish)

    async def _complete(self, request: Request) -> Response:
        body, error = await self._open(request)
        if error:
            return error
        if body.get("stream"):
            return self._stream(body, None, [{"text": word} for word in self.words], {"text": ""}, "stop")
        choice = {"index": 0, "text": "".join(self.words), "finish_reason": "stop"}
        return JSONResponse({"id": "cmpl-x", "model": body["model"], "choices": [choice], "usage": USAGE})

    async def _respond(self, request: Request) -> Response:
        body, error = await self._open(request)
        if error:
            return error
        text = "".join(self.words)
        output: list[dict[str, Any]] = [
            {"type": "function_call", "call_id": f"call-{i}", "name": name, "arguments": arguments}
            for i, (name, arguments) in enumerate(self.calls)
        ] or [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}]
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        whole = {"id": "resp_x", "status": "completed", "output": output, "usage": usage, "error": None}
        if not body.get("stream"):
            return JSONResponse(whole)

        async def events() -> Any:
            yield _event({"type": "response.created", "response": {"id": "resp_x"}})
            for word in self.words:
                yield _event({"type": "response.output_text.delta", "delta": word})
            yield _event({"type": "response.completed", "response": whole})

        return StreamingResponse(events(), media_type="text/event-stream")

    def _stream(
        self, body: dict[str, Any], key: str | None, deltas: list[dict[str, Any]], last: dict[str, Any], finish: str
    ) -> Response:
        async def events() -> Any:
            for i, delta in enumerate(deltas):
                for index in range(body.get("n", 1)):
                    said = {key: delta} if key else delta
                    yield _data({"model": body["model"], "choices": [{"index": index, **said, "finish_reason": None}]})
                if i == 1 and self.pause:
                    self.reached_pause.set()
                    await self.pause.wait()
            for index in range(body.get("n", 1)):
                said = {key: last} if key else last
                yield _data({"model": body["model"], "choices": [{"index": index, **said, "finish_reason": finish}]})
            if body.get("stream_options", {}).get("include_usage"):
                yield _data({"model": body["model"], "choices": [], "usage": USAGE})
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _secret(self, request: Request) -> Response:
        return JSONResponse({"tokens": [1, 2, 3]})


def _data(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"event: {data['type']}\n{_data(data)}"
