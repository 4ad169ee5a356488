"""`make bench NAME=log`: by how much a record on disk delays the end of an answer, and what sharing an fsync saves.

The gateway's own chain, in this process, around an engine that answers at once. Three ways to keep a record: not at all
(`off`), as the log does (`group`: one fsync for all that came meanwhile), and an fsync for each. A request's time ends
with its last byte. Beside them one write and fsync of as many bytes, by itself: what this disk takes at least.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message

from benchmarks import ROUNDS, conclude, quantile
from benchmarks.clusters import LIMITS, temporary
from benchmarks.fake import FakeEngine, VllmAdapters
from benchmarks.load import Job, bodies
from cluster import auth
from cluster.auth import Keys
from cluster.decisions import Alias
from cluster.log import Log, LogSettings
from cluster.log.entries import encode
from cluster.log.segments import frame
from cluster.records import Entry
from services.gateway.adapters import Adapters
from services.gateway.chain import Parts, chain
from services.gateway.desired import Desired
from services.gateway.edge import Edge
from services.gateway.forward import HttpForwarder
from services.gateway.keeper import Keeper, Writer
from services.gateway.limits import Meter
from services.gateway.versions import Shelf

REQUESTS = 800
"""Of one round and way; all its callers together."""
PAUSES_S = {1: 0.0, 16: 0.1}
"""How long a caller waits before its next request, by how many there are: 16 send some 150 requests/s between them, and
do not wait for each other's computing, which is no part of the log."""
RECORD_BYTES = 2048
WAYS = ("off", "group", "each")


class Off:
    """Keeps nothing."""

    async def append(self, entry: Entry) -> None: ...


class Each:
    """An fsync for every record, one after the other, on a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._thread = ThreadPoolExecutor(1)

    async def append(self, entry: Entry) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, frame(encode(entry)))

    def _write(self, data: bytes) -> None:
        os.write(self._file, data)
        os.fsync(self._file)

    def close(self) -> None:
        self._thread.shutdown()
        os.close(self._file)


@contextmanager
def writer(way: str, folder: Path) -> Iterator[Writer]:
    match way:
        case "off":
            yield Off()
        case "group":
            with Log(folder / "log", LogSettings()).writer("benchmark") as group:
                yield group
        case _:
            each = Each(folder / "each")
            yield each
            each.close()


def gateway(state: Path, writer: Writer) -> ASGIApp:
    """The chain as a replica has it."""
    mint_key = auth.mint_key(state)
    desired = Desired(state, Alias("assistant", "seed", "assistant@0"))
    parts = Parts(
        served="seed",
        keys=Keys(state),
        mint_key=mint_key,
        desired=desired,
        shelf=Shelf(state / "models"),
        adapters=Adapters(VllmAdapters(), most=2),
        forward=HttpForwarder("http://127.0.0.1:9", mint_key),
        keeper=Keeper(writer),
        meter=Meter("benchmark"),
    )
    return Edge(chain(FakeEngine(), parts), mint_key)


def milliseconds(app: ASGIApp, key: str, callers: int, seed: str) -> list[float]:
    """How long each streamed answer took."""
    asking = bodies(Job(url="", model="assistant", seed=seed))
    pause_s, took = PAUSES_S[callers], list[float]()

    async def call(number: int) -> None:
        draw = random.Random(number)
        for _ in range(REQUESTS // callers):
            await asyncio.sleep(pause_s * draw.uniform(0.5, 1.5))
            took.append(await answer(app, key, next(asking)))

    async def together() -> None:
        await asyncio.gather(*(call(number) for number in range(callers)))

    asyncio.run(together())
    return took


async def answer(app: ASGIApp, key: str, body: bytes) -> float:
    """Milliseconds from a request to the last byte of its answer."""
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "root_path": "", "query_string": b"",
        "client": None, "server": None, "headers": headers,
    }  # fmt: skip
    ended = 0.0

    async def send(message: Message) -> None:
        nonlocal ended
        assert message.get("status", 200) == 200, message
        if message["type"] == "http.response.body" and not message.get("more_body"):
            ended = time.perf_counter()

    began = time.perf_counter()
    await app(scope, once(body), send)
    return 1000 * (ended - began)


def once(body: bytes) -> Callable[[], Awaitable[Any]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def bare_fsync(folder: Path, times: int = 200) -> list[float]:
    """Milliseconds of a write and its fsync, nothing else going on."""
    file, took = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND), []
    for _ in range(times):
        began = time.perf_counter()
        os.write(file, bytes(RECORD_BYTES))
        os.fsync(file)
        took.append(1000 * (time.perf_counter() - began))
    os.close(file)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round: to see that it works")
    rounds = 1 if parser.parse_args().quick else ROUNDS
    took: dict[tuple[str, int], list[list[float]]] = {}
    fsyncs: list[list[float]] = []
    with temporary() as folder:
        key = Keys(folder).create("benchmark", ("infer",), LIMITS)
        for round in range(-1, rounds):  # the first does not count
            fsyncs.append(bare_fsync(folder))
            for way in WAYS[round % 3 :] + WAYS[: round % 3]:
                with writer(way, folder) as kept:
                    for callers in PAUSES_S:
                        seen = milliseconds(gateway(folder, kept), key, callers, f"{round} {way}")
                        took.setdefault((way, callers), []).append(seen)

    def middle(values: list[list[float]], share: float) -> float:
        return statistics.median(quantile(one, share) for one in values[1:])

    def added(way: str, callers: int, share: float) -> float:
        pairs = zip(took[way, callers][1:], took["off", callers][1:], strict=True)
        return statistics.median(quantile(kept, share) - quantile(off, share) for kept, off in pairs)

    print(f"{'ms':<16}{'callers':>8}{'p50':>9}{'p99':>9}{'added p50':>12}{'added p99':>12}")
    for callers in PAUSES_S:
        for way in WAYS:
            times = "".join(f"{middle(took[way, callers], share):9.3f}" for share in (0.5, 0.99))
            more = "".join(f"{added(way, callers, share):12.3f}" for share in (0.5, 0.99))
            print(f"{way:<16}{callers:>8}{times}{more}")
    print(f"{'one fsync':<16}{1:>8}{middle(fsyncs, 0.5):9.3f}{middle(fsyncs, 0.99):9.3f}")
    conclude(
        runs=rounds,
        added_p50_ms=added("group", 16, 0.5),
        added_p99_ms=added("group", 16, 0.99),
        fsync_ms=middle(fsyncs, 0.5),
    )


if __name__ == "__main__":
    main()
