"""The runs of the application `agents`, for the cluster's other applications: over Serve's handle, no key needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Unpack

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.auth import Principal
from cluster.records import Step
from services.agents.contract import Agent, Order, View
from services.agents.memory.passages import Passage

APPLICATION = DEPLOYMENT = "agents"

# Within `Elsewhere`, `list` is something else.
Views = list[View]
Passages = list[Passage]


class Elsewhere:
    """`contract.Runs`, and the memory, of whichever replica Serve chooses. Raises what they raise.

    Where no replica answers it is a `ValueError` that says so.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    async def agents(self) -> dict[str, Agent]:
        return await self._ask("agents")

    async def start(self, who: Principal, agent: str, task: str, **order: Unpack[Order]) -> View:
        return await self._ask("call", "start", who, agent, task, **order)

    async def get(self, who: Principal, run: str) -> View:
        return await self._ask("call", "get", who, run)

    async def list(self, who: Principal, agent: str | None = None, limit: int = 100) -> Views:
        return await self._ask("call", "list", who, agent, limit)

    async def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        handle = await self._open()
        try:
            async for step in handle.options(stream=True).followed.remote(who, run, since):
                yield step
        except (RayError, RayServeException) as error:
            raise _meant(error) from None

    async def say(self, who: Principal, run: str, text: str) -> View:
        return await self._ask("call", "say", who, run, text)

    async def approve(self, who: Principal, run: str, approved: bool, result: str | None = None) -> View:
        return await self._ask("call", "approve", who, run, approved, result)

    async def cancel(self, who: Principal, run: str) -> View:
        return await self._ask("call", "cancel", who, run)

    async def reward(
        self, who: Principal, run: str, score: float, source: str = "user", comment: str | None = None
    ) -> View:
        return await self._ask("call", "reward", who, run, score, source, comment)

    async def search(self, principal: str, query: str, count: int) -> Passages:
        return await self._ask("search", principal, query, count)

    async def _ask(self, method: str, *given: Any, **more: Any) -> Any:
        handle = await self._open()
        try:
            return await getattr(handle, method).remote(*given, **more)
        except (RayError, RayServeException) as error:
            raise _meant(error) from None

    async def _open(self) -> Any:
        if self._handle is None:
            try:
                self._handle = await asyncio.to_thread(serve.get_deployment_handle, DEPLOYMENT, APPLICATION)
            except RayServeException as error:
                raise _meant(error) from None
        return self._handle


def _meant(error: Exception) -> Exception:
    """What the replica raised, without Ray's account of where; for a replica that is not there, one sentence."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return error.cause
    return ValueError("no replica of the application `agents` answers now; try again shortly")
