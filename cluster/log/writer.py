"""Group commit: many callers, one thread, one fsync for all that came in the meantime."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future

from cluster import telemetry
from cluster.log.entries import encode
from cluster.log.segments import LogSettings, SegmentWriter, frame
from cluster.records import Entry

Waiter = asyncio.Future[None] | Future[None]
GROUP_BYTES = 8 * 2**20
"""Largest group, so that one fsync stays short."""


class LogUnavailable(RuntimeError):
    """The entry is not on disk: the disk is full, or fails. Later appends may succeed again; nothing needs a restart.

    Whatever was not acknowledged may still turn up in the log, when even cutting it off failed; never the reverse.
    """


class Writer:
    """Appends to segments of its own; any thread and any event loop may call it. `Log.writer` makes them."""

    def __init__(self, segments: SegmentWriter, settings: LogSettings) -> None:
        self._segments = segments
        self._wait_s = settings.flush_every_ms / 1000
        # A C queue: putting costs the event loop about 1 us, and the thread sleeps without polling.
        self._queue: queue.SimpleQueue[tuple[bytes, Waiter] | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._open = True
        self.syncs = 0
        """Groups written so far."""
        self.name = segments.name
        """Of its folder under `segments/`, which nobody else ever has."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    async def append(self, entry: Entry) -> None:
        """Returns once the entry is on disk; raises `LogUnavailable`. A cancelled caller's entry is still written."""
        await self.put(encode(entry))

    def put(self, *payloads: bytes) -> asyncio.Future[None]:
        """Append encoded entries in order, with one fsync. What is returned is done once all are on disk; if it fails,
        none counts."""
        waiter = asyncio.get_running_loop().create_future()
        self._submit(payloads, waiter)
        return waiter

    def append_sync(self, entry: Entry) -> None:
        """`append` for code without an event loop."""
        self.append_many([entry])

    def append_many(self, entries: Iterable[Entry]) -> None:
        """Append in order, sharing fsyncs. Returns once all are on disk; raises `LogUnavailable` if one is not."""
        waiters: list[Future[None]] = []
        for entry in entries:
            waiters.append(Future())
            self._submit([encode(entry)], waiters[-1])
        for waiter in waiters:
            waiter.result()

    def close(self) -> None:
        """Write what waits, finish the segment, stop the thread."""
        with self._gate:
            if self._open:
                self._open = False
                self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, payloads: Iterable[bytes], waiter: Waiter) -> None:
        data = b"".join([frame(payload) for payload in payloads])
        with self._gate:
            if not self._open:
                raise LogUnavailable("the log's writer is closed")
            self._queue.put((data, waiter))

    def _run(self) -> None:
        group: list[tuple[bytes, Waiter]] = []
        try:
            going = True
            while going:
                crowded = len(group) > 1
                group.clear()
                try:
                    first = self._queue.get(timeout=self._segments.idle_s())
                except queue.Empty:
                    self._segments.finish()
                    continue
                if crowded and self._wait_s:
                    time.sleep(self._wait_s)
                going = self._gather(first, group)
                if group:
                    self._commit(group)
            self._segments.close()
        except BaseException as error:
            # A defect, not a full disk. Without this thread nothing is written: say so to everybody, now and later.
            with self._gate:
                self._open = False
                self._gather(None, group)
            settle([waiter for _, waiter in group], f"the log's writer died ({error!r}); restart the process")
            raise

    def _gather(self, first: tuple[bytes, Waiter] | None, group: list[tuple[bytes, Waiter]]) -> bool:
        """Move what is queued into `group`. False once the writer is to close."""
        size, item, going = 0, first, first is not None
        while True:
            if item is not None:
                group.append(item)
                size += len(item[0])
            if going and size >= GROUP_BYTES:
                return True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return going
            going = going and item is not None

    def _commit(self, group: list[tuple[bytes, Waiter]]) -> None:
        problem, begin = None, time.perf_counter()
        try:
            self._segments.append([data for data, _ in group])
            self.syncs += 1
            telemetry.synced(time.perf_counter() - begin, len(group))
        except OSError as error:
            problem = f"the log cannot be written ({error.strerror or error}); make room on its disk, then try again"
        settle([waiter for _, waiter in group], problem)


def settle(waiters: Iterable[Waiter], problem: str | None) -> None:
    """Wake the callers: each event loop once, whatever the size of the group."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if isinstance(waiter, asyncio.Future):
            by_loop.setdefault(waiter.get_loop(), []).append(waiter)
        else:
            _finish(waiter, problem)
    for loop, futures in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_finish_all, futures, problem)


def _finish_all(futures: list[asyncio.Future[None]], problem: str | None) -> None:
    for future in futures:
        _finish(future, problem)


def _finish(waiter: Waiter, problem: str | None) -> None:
    if waiter.done():  # its caller was cancelled
        return
    if problem is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(LogUnavailable(problem))
