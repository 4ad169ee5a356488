"""Keeping records: nothing counts as answered that is not on disk; a full disk stops answers instead of losing them."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from cluster.log import LogUnavailable
from cluster.records import Entry
from services.gateway.errors import Refusal


class Writer(Protocol):
    """The log's writer, as far as the gateway needs it."""

    async def append(self, entry: Entry) -> None: ...


class Keeper:
    """A writer with a fuse.

    After a failed write the gateway refuses work before the engine does it; every `retry_s` one request is let through
    to try the disk again, and the first that can be written closes the fuse.
    """

    def __init__(self, writer: Writer, retry_s: float = 1.0) -> None:
        self._writer, self._retry_s = writer, retry_s
        self._blown = False
        self._retry_at = 0.0
        self._writing: set[asyncio.Task[None]] = set()

    def admit(self) -> None:
        """Raises `Refusal` while the log is known to be unavailable."""
        now = time.monotonic()
        if self._blown and now < self._retry_at:
            raise unavailable()
        self._retry_at = now + self._retry_s

    async def keep(self, entry: Entry) -> None:
        """Returns once the entry is on disk; raises `LogUnavailable`. A caller that is cancelled loses nothing."""
        await asyncio.shield(self.start(entry))

    def start(self, entry: Entry) -> asyncio.Task[None]:
        """Keep without waiting: for a client that has hung up."""
        task = asyncio.get_running_loop().create_task(self._write(entry))
        self._writing.add(task)
        task.add_done_callback(self._written)
        return task

    async def settle(self) -> None:
        """Wait for what is still being written."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _write(self, entry: Entry) -> None:
        try:
            await self._writer.append(entry)
        except LogUnavailable:
            self._blown, self._retry_at = True, time.monotonic() + self._retry_s
            raise
        self._blown = False

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits has it; for a client that has gone nobody does, and that is no defect


def unavailable() -> Refusal:
    message = "the request log cannot be written, and nothing is answered that cannot be recorded; try again shortly"
    return Refusal(503, message, code="log_unavailable", retry_after_s=5)
