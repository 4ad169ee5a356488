"""One at a time for each id, over all processes that share a state folder: ids share a few lock files."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cluster.log.files import Lock, OsFiles

STRIPES = 64
AGAIN_S = 0.01


class Stripes:
    """The kernel frees the locks of a process that dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._here = [asyncio.Lock() for _ in range(STRIPES)]

    @asynccontextmanager
    async def hold(self, what: str) -> AsyncIterator[None]:
        """Be the only one for this id while the block lasts."""
        stripe = zlib.crc32(what.encode()) % STRIPES
        async with self._here[stripe]:  # so that one process asks the kernel once, and no thread waits
            while (lock := await asyncio.to_thread(self._lock, stripe)) is None:
                await asyncio.sleep(AGAIN_S)
            with lock:
                yield

    def _lock(self, stripe: int) -> Lock | None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return OsFiles().lock(self._folder / f"{stripe:02}.lock", wait=False)
