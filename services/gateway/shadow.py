"""Shadows: a candidate answers a request beside the champion; the answer is recorded, and nobody sees it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from time import time as now

from starlette.types import ASGIApp, Message, Scope, Send

from cluster import ids
from services.gateway.adapters import Adapters
from services.gateway.call import KEY, Call, call_of, never, replay
from services.gateway.errors import Refusal
from services.gateway.versions import Forward, Held

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shadows:
    """Answers requests once more, in the background and behind everybody else."""

    app: ASGIApp
    """What records and answers, behind routing."""
    served: str
    adapters: Adapters
    forward: Callable[[Call, str, Send], Awaitable[None]]
    mint_key: bytes
    most: int
    """At once; a request beyond it gets no shadow, because users come first."""
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def cast(self, scope: Scope, target: Held | Forward) -> None:
        """Begin to answer the scope's call as `target`, and return at once."""
        if len(self._running) < self.most:
            task = asyncio.get_running_loop().create_task(self._answer(scope, target))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(self, scope: Scope, target: Held | Forward) -> None:
        seen = call_of(scope)
        held = target.held if isinstance(target, Forward) else target
        call = replace(
            seen,
            request_id=ids.mint(self.mint_key),
            # Without a session of its own a request is its own session; its shadow belongs to the same.
            headers={**seen.headers, b"x-session-id": seen.session.encode("latin-1", "replace")},
            time=now(),
            started=perf_counter(),
            body={name: value for name, value in seen.body.items() if name not in ("stream", "stream_options")},
            alias=held.alias,
            version=held.version,
            arm="shadow",
            shadow_of=seen.request_id,
        )
        try:
            if isinstance(target, Forward):
                call.raw, call.routed = json.dumps(call.body).encode(), target.routed(call.shadow_of)
                return await self.forward(call, target.prefix, _unseen)
            async with self.adapters.lease(target.adapter):
                inner = {**scope, KEY: call, "trivium.served": target.adapter or self.served}
                await self.app(inner, replay(b"", never), _unseen)
        except Refusal as refusal:
            logger.warning("%s cast no shadow on %s: %s", held.version, seen.request_id, refusal.message)
        except Exception:
            logger.exception("%s failed in the shadow of %s", held.version, seen.request_id)


async def _unseen(message: Message) -> None:
    """Nobody reads it."""
