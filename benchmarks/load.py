"""One load client in a process of its own: `python -m benchmarks.load` reads a `Job`, prints what was `Seen`, as JSON.

It must not be what is measured: bytes are counted as they come from the socket, nothing is parsed but the head, and
whether an answer was whole is looked at after it has ended. A closed loop: each of `concurrency` callers sends its next
request when its last answer is complete. With a `rate` it is an open one: requests come whoever still waits.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import psutil
from pydantic import ValidationError

from benchmarks import quantile
from cluster.settings import Strict

TOKENS = 32
"""Of every answer: `ignore_eos` makes them all equally long."""
PATIENCE_S = 60
"""An answer that takes longer has failed."""
EVENT = b"\ndata: {"
"""Begins every event of a stream but `[DONE]`. In JSON a line break is escaped, so no answer's text can hold it."""
TEXT = (
    "please book a table for five people near the river in Lyon on Friday evening and tell me what the weather will be "
    "like there because we want to sit outside if it stays dry then play some quiet music and remind me to call Ada"
)


class Job(Strict):
    """What to ask, of whom, how often."""

    url: str
    """Such as `http://127.0.0.1:8000`."""
    model: str
    key: str = ""
    streaming: bool = True
    concurrency: int = 1
    rate: float | None = None
    """Requests a second, at random intervals (Poisson) that are the same for the same seed; instead of callers."""
    requests: int | None = None
    """Stop after so many ..."""
    seconds: float | None = None
    """... or send none after so long."""
    seed: str = "0"
    """Prompts are the same for the same seed, and share no prefix with another's beyond the chat template."""
    candidate: str | None = None
    """A model that gets `candidate_share` of the requests: what a canary does to ours, for servers that have none."""
    candidate_share: float = 0.0
    watch: dict[str, list[int]] = {}
    """Processes whose processor time is measured meanwhile, by what they are for."""


class Seen(Strict):
    """What came of a job. Times are those at which bytes came out of the socket."""

    requests: int
    """Whole answers."""
    failed: int
    failures: list[str] = []
    """The first few, in words."""
    wall_s: float
    requests_per_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    inter_token_p50_ms: float | None = None
    """Between the arrivals of two events of one stream; 0 where one read brought both."""
    inter_token_p99_ms: float | None = None
    cpu_s: dict[str, float] = {}
    """Processor seconds of `watch`, of this client, and of everything else on the machine (`elsewhere`)."""
    versions: dict[str, int] = {}
    """Answers by `x-trivium-version`."""


def run(job: Job) -> Seen:
    """Carry the job out in another process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=job.model_dump_json(), capture_output=True, text=True
    )
    try:
        return Seen.model_validate_json(done.stdout)
    except ValidationError:
        raise RuntimeError(f"the load client failed: {done.stderr or done.stdout}") from None


def prompt(seed: str, number: int) -> str:
    """A request of ordinary size, some 120 tokens of the seed model's."""
    words = random.Random(f"{seed}:{number}").choices(TEXT.split(), k=80)
    return f"{seed} {number} {' '.join(words)}"


def bodies(job: Job) -> Iterator[bytes]:
    """Request bodies without end."""
    due = 0.0
    for number in itertools.count():
        due += job.candidate_share
        candidate = job.candidate if due >= 1 else None
        due -= bool(candidate)
        yield json.dumps(
            {
                "model": candidate or job.model,
                "messages": [{"role": "user", "content": prompt(job.seed, number)}],
                "max_tokens": TOKENS,
                "temperature": 0,
                "ignore_eos": True,
                "stream": job.streaming,
            }
        ).encode()


@dataclass(slots=True)
class Answer:
    """One answer as it comes."""

    begun: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When bytes came, and how many events began in them."""
    ended: float = 0.0
    failure: str | None = None
    version: str | None = None


class Connection(asyncio.Protocol):
    """HTTP/1.1, as much of it as these servers speak: a head, then a body in chunks or of a length."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._done: asyncio.Future[Answer] | None = None
        self._parts: list[bytes] = []
        self._head = b""
        self._tail = b""
        self._left = -1
        """Bytes of a body whose length is known; -1: in chunks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        assert self._transport
        self._done = asyncio.get_running_loop().create_future()
        self._parts, self._head, self._tail, self._left = [], b"", b"\n", -1
        self._answer = Answer(time.perf_counter())
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        now, answer = time.perf_counter(), self._answer
        if answer is None:
            return
        if not self._head:
            head, end, data = (b"".join(self._parts) + data).partition(b"\r\n\r\n")
            self._parts = [head + end + data] if not end else []
            if not end:
                return
            self._read_head(head)
        if not data:
            return
        self._parts.append(data)
        window = self._tail + data
        if events := window.count(EVENT):
            answer.arrivals.append((now, events))
        self._tail = window[1 - len(EVENT) :]
        if self._left >= 0:
            self._left -= len(data)
        if self._left == 0 or (self._left < 0 and window.endswith(b"\n0\r\n\r\n")):
            self._finish(now, None)

    def _read_head(self, head: bytes) -> None:
        self._head = head
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                self._left = int(value)
            elif name == b"x-trivium-version" and self._answer:
                self._answer.version = value.strip().decode()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._finish(time.perf_counter(), f"the connection broke off: {error}")

    def give_up(self) -> None:
        self._finish(time.perf_counter(), f"no whole answer within {PATIENCE_S} s")
        self.close()

    def close(self) -> None:
        assert self._transport
        self._transport.abort()

    def _finish(self, now: float, failure: str | None) -> None:
        if self._answer and self._done and not self._done.done():
            self._answer.ended, self._answer.failure = now, failure or complaint(self._head, b"".join(self._parts))
            self._done.set_result(self._answer)
        self._answer = None


def complaint(head: bytes, body: bytes) -> str | None:
    """What is wrong with an answer; None if it is one of `TOKENS` tokens."""
    status = head.partition(b"\r\n")[0].partition(b" ")[2]
    if not status.startswith(b"200"):
        return f"{status.decode()}: {body[-300:].decode(errors='replace')}"
    if b'"length"' not in body or (EVENT in b"\n" + body and b"data: [DONE]" not in body):
        return f"not a whole answer: {body[-300:].decode(errors='replace')}"
    return None


def processor_s(watch: dict[str, list[int]]) -> Counter[str]:
    """Processor seconds so far: of the watched processes, of this one, and of all there are (`machine`)."""
    spent, everything = Counter({"client": time.process_time()}), psutil.cpu_times()
    for what, numbers in watch.items():
        for number in numbers:
            with suppress(psutil.Error):
                times = psutil.Process(number).cpu_times()
                spent[what] += times.user + times.system
    spent["machine"] = sum(everything) - everything.idle - everything.iowait - everything.guest
    return spent


async def ask_all(job: Job) -> tuple[list[Answer], float, dict[str, float]]:
    """The answers, the seconds that they took, and the processor seconds."""
    where = urlsplit(job.url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {job.key}\r\n" if job.key else ""
    asking: Iterator[bytes] = itertools.islice(bodies(job), job.requests)
    if job.requests is not None:
        asking = iter(list(asking))  # made beforehand: it should not take time from the server
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    deadline = time.perf_counter() + (job.seconds or 86400)

    async def ask(connection: Connection | None, body: bytes) -> Connection:
        if connection is None or connection.closed:
            _, connection = await loop.create_connection(Connection, host, port)
        request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        waiting = connection.ask(request)
        watch = loop.call_later(PATIENCE_S, connection.give_up)
        answers.append(await waiting)
        watch.cancel()
        return connection

    async def call() -> None:
        connection: Connection | None = None
        while time.perf_counter() < deadline and (body := next(asking, None)) is not None:
            connection = await ask(connection, body)
            if answers[-1].failure:
                await asyncio.sleep(0.05)  # who is refused does not hammer
        if connection is not None:
            connection.close()

    async def arrive(rate: float) -> None:
        idle, draw, due = list[Connection](), random.Random(job.seed), time.perf_counter()

        async def once(body: bytes) -> None:
            idle.append(await ask(idle.pop() if idle else None, body))

        async with asyncio.TaskGroup() as under_way:
            while (due := due + draw.expovariate(rate)) < deadline and (body := next(asking, None)) is not None:
                await asyncio.sleep(max(0, due - time.perf_counter()))
                under_way.create_task(once(body))
        for connection in idle:
            connection.close()

    gc.disable()
    before, began = processor_s(job.watch), time.perf_counter()
    if job.rate:
        await arrive(job.rate)
    else:
        await asyncio.gather(*(call() for _ in range(job.concurrency)))
    wall_s, spent = time.perf_counter() - began, processor_s(job.watch)
    spent.subtract(before)
    machine_s = spent.pop("machine")
    return answers, wall_s, {**spent, "elsewhere": machine_s - spent.total()}


def summarize(answers: list[Answer], wall_s: float, cpu_s: dict[str, float]) -> Seen:
    """What `Seen` says of these answers."""
    whole = [answer for answer in answers if answer.failure is None]
    failures = [answer.failure for answer in answers if answer.failure]
    if not whole:
        raise RuntimeError(f"no request was answered: {failures[:3]}")
    latencies = [answer.ended - answer.begun for answer in whole]
    firsts = [answer.arrivals[0][0] - answer.begun for answer in whole if answer.arrivals]
    gaps = [gap for answer in whole for gap in inter_token(answer.arrivals)]
    versions = [answer.version for answer in whole if answer.version]

    def milliseconds(values: list[float], share: float) -> float | None:
        return 1000 * quantile(values, share) if values else None

    return Seen(
        requests=len(whole),
        failed=len(failures),
        failures=failures[:3],
        wall_s=wall_s,
        requests_per_s=len(whole) / wall_s,
        latency_p50_ms=1000 * quantile(latencies, 0.5),
        latency_p99_ms=1000 * quantile(latencies, 0.99),
        ttft_p50_ms=milliseconds(firsts, 0.5),
        ttft_p99_ms=milliseconds(firsts, 0.99),
        inter_token_p50_ms=milliseconds(gaps, 0.5),
        inter_token_p99_ms=milliseconds(gaps, 0.99),
        cpu_s=cpu_s,
        versions={version: versions.count(version) for version in sorted(set(versions))},
    )


def inter_token(arrivals: list[tuple[float, int]]) -> Iterator[float]:
    """Seconds between one event and the next."""
    for (before, _), (now, events) in itertools.pairwise(arrivals):
        yield now - before
        yield from (0.0 for _ in range(events - 1))


def main() -> None:
    import uvloop

    job = Job.model_validate_json(sys.stdin.read())
    print(summarize(*uvloop.run(ask_all(job))).model_dump_json())


if __name__ == "__main__":
    main()
