"""The book of limits on Ray: one small actor for the cluster, which any replica makes when it first needs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Set
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.auth import Limits
from services.gateway.ledger import Answer
from services.gateway.limits import PATIENCE_S, Accounts, Away

NAME, NAMESPACE = "limits", "trivium"
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
        self._actor: Any = None

    async def enter(self, key: str, limits: Limits, ticket: str, replica: str, tokens: int, unused: int) -> Answer:
        return await self._ask("enter", key, limits, ticket, replica, tokens, unused)

    async def settle(self, key: str, limits: Limits, ticket: str, tokens: int, unused: int) -> None:
        await self._ask("settle", key, limits, ticket, tokens, unused)

    async def renew(self, replica: str, held: Mapping[str, str], pending: Set[str]) -> None:
        await self._ask("renew", replica, held, pending)

    async def _ask(self, name: str, *question: Any) -> Any:
        for last in (False, True):
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(_find)  # asks GCS, and waits for it
                return await getattr(self._actor, name).remote(*question)
            except (RayError, ConnectionError) as error:
                self._actor = None  # it was idle and ended, or its node is gone: there may be a new one
                if last:
                    raise Away(str(error)) from error


def _find() -> Any:
    """The cluster's actor; makes it if there is none. It outlives the replica that made it."""
    return (
        ray.remote(Limiter)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=10_000,
        )
        .remote()
    )
