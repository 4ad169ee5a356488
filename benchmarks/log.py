"""`make bench NAME=log`: what an acknowledged append costs beside a bare write and fsync of the same bytes."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from benchmarks import compare
from cluster.log import Log
from cluster.log.entries import encode
from cluster.records import Record

APPENDS = 400


def answered() -> Record:
    """An answered request of ordinary size, about 1.5 KB as it lies in the log."""
    return Record(
        request_id="req-benchmark",
        time=time.time(),
        principal="benchmark",
        session="benchmark",
        endpoint="/v1/chat/completions",
        alias="assistant",
        version="assistant@1",
        messages=[{"role": "user", "content": "A table for five in Lyon, near the river. " * 24}],
        answer={"role": "assistant", "content": "For which day?"},
        finish_reason="stop",
        latency_s=0.1,
    )


def milliseconds(callers: int, append: Callable[[], Awaitable[None]], quantile: float) -> float:
    """The quantile of one append's time, with so many callers that each wait for their own."""
    took: list[float] = []

    async def call() -> None:
        for _ in range(APPENDS // callers):
            began = time.perf_counter()
            await append()
            took.append(1000 * (time.perf_counter() - began))

    async def together() -> None:
        await asyncio.gather(*(call() for _ in range(callers)))

    asyncio.run(together())
    return statistics.quantiles(took, n=100)[round(100 * quantile) - 1]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:  # not in /tmp, which may be memory
        writer = Log(Path(folder) / "log").writer("benchmark")
        record, bare = answered(), os.open(f"{folder}/bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        payload = encode(record)

        def plain() -> None:
            os.write(bare, payload)
            os.fsync(bare)

        async def beside() -> None:
            await asyncio.to_thread(plain)

        for callers in (1, 16):
            for quantile in (0.5, 0.99):
                title = f"append, {callers} callers, p{100 * quantile:.0f}, ms"
                ours = partial(milliseconds, callers, partial(writer.append, record), quantile)
                compare(title, ours, partial(milliseconds, callers, beside, quantile))
        writer.close()


if __name__ == "__main__":
    main()
