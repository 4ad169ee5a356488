"""The adapters that an engine holds: what desired state wants, and what was asked for by name until room is needed.

An adapter is loaded under its immutable id, `name@7`, and never again under the same one with other weights: vLLM may
answer from prefix-cache blocks of the former weights (vllm#42125).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from services.gateway.errors import Refusal

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What loads and unloads. Raises `ValueError` with a sentence for an adapter that it cannot take."""

    async def load(self, version: str) -> None: ...

    async def unload(self, version: str) -> None: ...


class Adapters:
    """Loads on demand and once at a time, unloads the least recently used that nobody wants or uses."""

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most
        self._held: OrderedDict[str, None] = OrderedDict()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._in_use: Counter[str] = Counter()
        self._wanted: list[str] = []
        self.errors: dict[str, str] = {}
        """Wanted versions that the engine could not take, with the reason."""

    @property
    def versions(self) -> list[str]:
        """Version ids that the engine holds now."""
        return sorted(self._held)

    async def want(self, versions: list[str]) -> None:
        """Hold these versions. What cannot be loaded is told in `errors`; the rest is served all the same."""
        self._wanted, errors = versions, {}
        for version in versions:
            try:
                await self._ensure(version)
            except Exception as error:  # whatever it is: who waits for this replica must hear why it does not follow
                errors[version] = str(error) or repr(error)
                logger.exception("version %s cannot be loaded", version)
        self.errors = errors
        await self._make_room(0)

    @asynccontextmanager
    async def lease(self, version: str | None) -> AsyncIterator[None]:
        """Hold a version for the length of a request; a miss loads it. None stands for the engine's own weights."""
        if version is None:
            yield
            return
        self._in_use[version] += 1
        try:
            try:
                await self._ensure(version)
            except ValueError as error:
                message = f"version `{version}` cannot be loaded: {error}"
                raise Refusal(503, message, code="version_unavailable", param="model", retry_after_s=5) from None
            self._held.move_to_end(version)
            yield
        finally:
            self._in_use[version] -= 1

    async def _ensure(self, version: str) -> None:
        if version in self._held:
            return
        if version not in self._loading:
            task = asyncio.get_running_loop().create_task(self._load(version))
            self._loading[version] = task
            task.add_done_callback(lambda _: self._loading.pop(version, None))
        # Shielded: the one who asked first may hang up while others wait for the same adapter.
        await asyncio.shield(self._loading[version])

    async def _load(self, version: str) -> None:
        await self._make_room(1)
        await self._engine.load(version)
        self._held[version] = None

    async def _make_room(self, needed: int) -> None:
        idle = [v for v in self._held if v not in self._wanted and not self._in_use[v]]
        for version in idle[: max(0, len(self._held) + needed - self._most)]:
            del self._held[version]  # first, so that a request that comes meanwhile loads it again
            await self._engine.unload(version)
