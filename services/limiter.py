"""The book of limits on Ray: one small actor for the cluster, which any replica makes when it first needs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Set
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.auth import Limits
from services.detached import Detached
from services.gateway.ledger import Answer
from services.gateway.limits import PATIENCE_S, Accounts, Away

NAME = "limits"
GONE = (RayError, ConnectionError)
IDLE_S = 600.0
"""An actor that nobody has asked for so long, and that nobody owes anything, ends: a head that others use goes on
without it, and the next question makes a new one."""


class Limiter(Accounts):
    """The actor."""

    def __init__(self) -> None:
        super().__init__(PATIENCE_S)
        self._asked = time.monotonic()
        self._watch: asyncio.Task[None] | None = None

    async def enter(self, *question: Any) -> Answer:
        self._asked = time.monotonic()
        if self._watch is None:  # not in the constructor: that has no event loop yet
            self._watch = asyncio.create_task(self._end_when_idle())
        return await super().enter(*question)

    async def _end_when_idle(self) -> None:
        while time.monotonic() - self._asked < IDLE_S or not self.settled():
            await asyncio.sleep(IDLE_S / 10)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


class RayBook:
    """The actor, seen from a replica."""

    def __init__(self) -> None:
        self._actor = Detached(Limiter, NAME, again=GONE, max_concurrency=10_000)

    async def enter(self, key: str, limits: Limits, ticket: str, replica: str, tokens: int, unused: int) -> Answer:
        return await self._ask("enter", key, limits, ticket, replica, tokens, unused)

    async def settle(self, key: str, limits: Limits, ticket: str, tokens: int, unused: int) -> None:
        await self._ask("settle", key, limits, ticket, tokens, unused)

    async def renew(self, replica: str, held: Mapping[str, str], pending: Set[str]) -> None:
        await self._ask("renew", replica, held, pending)

    async def _ask(self, method: str, *question: Any) -> Any:
        try:
            return await self._actor.ask(method, *question)
        except GONE as error:
            raise Away(str(error)) from error
