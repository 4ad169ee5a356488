"""How busy this replica is, for those on its machine that make way for it (`cluster/pressure.py`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.pressure import BEAT_S, Gauge
from services.gateway.call import call_of


@dataclass(frozen=True)
class Weigh:
    """Counts an answer that somebody waits for while it is under way, and its first token."""

    app: ASGIApp
    gauge: Gauge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call, gauge = call_of(scope), self.gauge
        if call.evaluation or call.shadow_of:
            return await self.app(scope, receive, send)  # nobody waits: training need not make way
        number, waiting = gauge.asked(), True

        async def watch(message: Message) -> None:
            nonlocal waiting
            if waiting and message["type"] == "http.response.body":
                waiting = False
                gauge.first_token(number)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            gauge.answered(number)


async def beat(gauge: Gauge) -> None:
    """Say again and again that this replica's loop turns."""
    while True:
        gauge.beat()
        await asyncio.sleep(BEAT_S)
