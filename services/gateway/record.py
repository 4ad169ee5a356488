"""Recording: the client's last byte leaves only after the record of the answer is on disk."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import telemetry
from cluster.log import LogUnavailable
from cluster.records import Record
from services.gateway import dialogue
from services.gateway.call import Call, call_of
from services.gateway.errors import Headers, Refusal, reworded, send_json, status_in
from services.gateway.keeper import Keeper, unavailable
from services.gateway.transcript import Transcript

VERSION = b"x-trivium-version"


@dataclass(frozen=True)
class Recorder:
    """Passes an answer on, listens, and keeps its record before it lets the end go."""

    app: ASGIApp
    keeper: Keeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        if not call.evaluation:
            self.keeper.admit()
        exchange = Exchange(call, self.keeper, send)

        async def listen() -> Message:
            message = await receive()
            exchange.hung_up |= message["type"] == "http.disconnect"
            return message

        telemetry.arrived(call.alias, call.version, call.arm)
        try:
            await self.app(scope, listen, exchange.take)
        except asyncio.CancelledError:
            exchange.abandon()  # Serve cancels us when the client hangs up
            raise
        except Refusal:
            raise
        except Exception as error:
            if not exchange.complete:  # an engine's app may answer 500 by itself before it raises
                await exchange.fail(error)
        else:
            if not exchange.complete:
                exchange.abandon()
        finally:
            telemetry.left(call.alias, call.version, call.arm)


class Exchange:
    """One answer on its way from the engine to the client."""

    def __init__(self, call: Call, keeper: Keeper, send: Send) -> None:
        self._call, self._keeper, self._send = call, keeper, send
        self._transcript = Transcript.of(call.path, call.body.get("n", 1))
        self._wants_usage = bool(call.body.get("stream_options", {}).get("include_usage"))
        self._start: Message = {}
        self._streaming = False
        self._started = False
        self._buffer = b""
        self._held: list[bytes] = []
        self._events = 0
        self._first_byte_s: float | None = None
        self._kept = False
        self.hung_up = False
        self.complete = False

    async def take(self, message: Message) -> None:
        """Take one ASGI message of the engine."""
        if message["type"] == "http.response.start":
            # Held until the first body: an engine that fails before its first token still gets a status of its own.
            self._start = message
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._streaming = message["status"] < 400 and kind.startswith(b"text/event-stream")
        elif message["type"] == "http.response.body":
            self._buffer += message.get("body", b"")
            last = not message.get("more_body", False)
            if self._streaming:
                await self._pass_events(last)
            elif last and not self.hung_up and not self.complete:
                await self._answer_whole()

    async def _answer_whole(self) -> None:
        status = self._start["status"]
        if status >= 400:
            return await self._answer_error(status, reworded(status, self._buffer))
        self._transcript.whole(json.loads(self._buffer))
        await self._keep(status)
        self.complete = True
        await self._send({**self._start, "headers": [*self._start["headers"], *self._headers()]})
        await self._send({"type": "http.response.body", "body": self._buffer})

    async def _answer_error(self, status: int, body: dict) -> None:
        self._transcript.error = str(body["error"]["message"])
        await self._keep(status)
        self.complete = True
        await send_json(self._send, status, body, self._headers())

    async def _pass_events(self, last: bool) -> None:
        *events, self._buffer = self._buffer.split(b"\n\n")
        self._events += len(events)
        if not self._started and events and events[0].startswith(b'data: {"error"'):
            # Nothing has been sent yet: the client gets an honest status instead of a stream that begins with an error.
            self._streaming = False
            body = events[0].removeprefix(b"data: ")
            return await self._answer_error(status_in(body), reworded(500, body))
        passing = []
        for event in events:
            if self._transcript.finishes(event) or self._held:
                if self._wants_usage or not self._transcript.only_usage(event):
                    self._held.append(event + b"\n\n")
            else:
                passing.append(event + b"\n\n")
        if passing:
            await self._pass_on(b"".join(passing), more=True)
        for event in events:
            self._transcript.feed(event)  # after the bytes have left: the client does not wait for our parsing
        if last:
            self._transcript.end()
            await self._keep(500 if self._transcript.error else self._start["status"])
            self.complete = True
            await self._pass_on(b"".join(self._held) + self._buffer, more=False)

    async def _pass_on(self, body: bytes, more: bool) -> None:
        if not self._started:
            self._started = True
            self._first_byte_s = time.perf_counter() - self._call.started
            await self._send({**self._start, "headers": [*self._start["headers"], *self._headers()]})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def fail(self, error: Exception) -> None:
        """The engine raised, or the record could not be kept: end without a finish, so that it passes for no answer."""
        if isinstance(error, LogUnavailable):
            refusal = unavailable()
        else:
            refusal = Refusal(500, "the engine failed; try again", code="engine_failed")
            self._transcript.error = repr(error)
            self.abandon(status=500)
        self.complete = True
        if not self._started:
            return await send_json(self._send, refusal.status, refusal.body, [*refusal.headers, *self._headers()])
        event = b"data: " + json.dumps(refusal.body).encode() + b"\n\n"
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def abandon(self, status: int | None = None) -> None:
        """Keep what there is of the answer; nobody waits for it."""
        self._call.tokens = self._spent()
        if not (self._kept or self._call.evaluation):
            if self._streaming:
                self._transcript.end()
            self._keeper.start(self._record(status or self._start.get("status", 200), disconnected=status is None))
            self._kept = True

    async def _keep(self, status: int) -> None:
        self._call.tokens = self._spent()
        if not (self._kept or self._call.evaluation):
            self._kept = True
            await self._keeper.keep(self._record(status, disconnected=False))

    def _spent(self) -> int:
        """Tokens of prompt and completion. An answer that broke off never said: then an event counts as a token, and
        four bytes of the request do."""
        said = self._transcript
        if said.prompt_tokens is not None:
            return said.prompt_tokens + (said.completion_tokens or 0)
        return 0 if said.error else len(self._call.raw) // 4 + self._events

    def _record(self, status: int, disconnected: bool) -> Record:
        call, said = self._call, self._transcript
        stored = call.body.get("store") is not False
        messages, tools = dialogue.asked(call.path, call.body) if stored else ([], [])
        latency_s = time.perf_counter() - call.started
        record = Record(
            request_id=call.request_id,
            time=call.time,
            principal=call.principal.id,
            session=call.session,
            endpoint=call.path,
            alias=call.alias,
            version=call.version,
            arm=call.arm,
            shadow_of=call.shadow_of,
            messages=messages,
            tools=tools,
            sampling=dialogue.sampling(call.body, stored),
            answer=said.answers[0] if stored and said.answers else None,
            alternatives=said.answers[1:] if stored else [],
            finish_reason=said.finish_reason,
            prompt_tokens=said.prompt_tokens,
            completion_tokens=said.completion_tokens,
            streamed=self._streaming,
            stored=stored,
            disconnected=disconnected,
            status=status,
            error=(said.error if stored else "withheld") if said.error else None,
            ttft_s=self._first_byte_s,
            latency_s=latency_s,
        )
        telemetry.answered(record, call.headers.get(b"traceparent"))
        return record

    def _headers(self) -> Headers:
        return [(VERSION, self._call.version.encode())]
