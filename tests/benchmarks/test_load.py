"""The load client against servers that answer byte for byte what a test says."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from benchmarks.load import Job, ask_all, bodies, inter_token, prompt, summarize

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nX-Trivium-Version: assistant@3\r\n"
Answer = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def chunk(event: bytes) -> bytes:
    return f"{len(event):x}\r\n".encode() + event + b"\r\n"


def events(*texts: str) -> list[bytes]:
    said = [json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": None}]}) for text in texts]
    said[-1] = said[-1].replace("null", '"length"')
    return [f"data: {one}\n\n".encode() for one in said]


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the client has gone
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await answer(writer, await reader.readexactly(length))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_stream_is_whole_however_its_bytes_are_cut() -> None:
    body = b"".join(map(chunk, [*events("a", " data: {", "c"), b"data: [DONE]\n\n"])) + b"0\r\n\r\n"
    whole = HEAD + b"transfer-encoding: chunked\r\n\r\n" + body

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        for place in range(0, len(whole), 7):
            writer.write(whole[place : place + 7])
            await writer.drain()
            await asyncio.sleep(0)

    async with served(answer) as url:
        answers, *spent = await ask_all(Job(url=url, model="m", requests=3))
    seen = summarize(answers, *spent)
    assert (seen.requests, seen.failed, seen.versions) == (3, 0, {"assistant@3": 3})
    assert all(sum(events for _, events in answer.arrivals) == 3 for answer in answers)


async def test_an_answer_of_a_length_ends_with_it_and_the_connection_goes_on() -> None:
    body = json.dumps({"choices": [{"finish_reason": "length"}]}).encode()
    connections = set()

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        connections.add(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with served(answer) as url:
        seen = summarize(*await ask_all(Job(url=url, model="m", streaming=False, requests=5)))
    assert (seen.requests, seen.failed, seen.ttft_p50_ms) == (5, 0, None)
    assert len(connections) == 1


async def test_requests_at_a_rate_do_not_wait_for_answers() -> None:
    body = json.dumps({"choices": [{"finish_reason": "length"}]}).encode()
    asked, enough = 0, asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        nonlocal asked
        asked += 1
        if asked == 20:
            enough.set()
        await enough.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with served(answer) as url:
        answers, *spent = await ask_all(Job(url=url, model="m", streaming=False, rate=200, requests=20, seed="a"))
    assert summarize(answers, *spent).requests == 20
    draw = random.Random("a")
    planned_s = sum(draw.expovariate(200) for _ in range(20)[1:])
    begun = sorted(answer.begun for answer in answers)
    assert begun[-1] - begun[0] > planned_s / 2, "and they do not come all at once"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", "503 Service Unavailable: busy"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(events("a")[0]) + b"0\r\n\r\n", "not a whole answer"),
        (
            HEAD
            + b"transfer-encoding: chunked\r\n\r\n"
            + chunk(
                b'data: {"cut',
            ),
            "the connection broke off",
        ),
    ],
)
async def test_what_is_no_whole_answer_is_counted_as_failed(said: bytes, why: str) -> None:
    answered = 0
    body = b"".join(map(chunk, [*events("a"), b"data: [DONE]\n\n"])) + b"0\r\n\r\n"

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        nonlocal answered
        answered += 1
        writer.write(said if answered == 2 else HEAD + b"transfer-encoding: chunked\r\n\r\n" + body)
        if answered == 2:
            writer.close()

    async with served(answer) as url:
        seen = summarize(*await ask_all(Job(url=url, model="m", requests=4)))
    assert (seen.requests, seen.failed) == (3, 1)
    assert seen.failures[0].startswith(why)


async def test_load_ends_with_its_time() -> None:
    body = json.dumps({"choices": [{"finish_reason": "length"}]}).encode()

    async def answer(writer: asyncio.StreamWriter, _: bytes) -> None:
        await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    async with served(answer) as url:
        answers, wall_s, _ = await ask_all(Job(url=url, model="m", streaming=False, concurrency=2, seconds=0.2))
    assert len(answers) > 2
    assert wall_s < 5


def test_events_of_one_read_have_no_time_between_them() -> None:
    assert list(inter_token([(1.0, 2), (1.5, 3), (2.0, 1)])) == [0.5, 0.0, 0.0, 0.5]


def test_prompts_are_the_same_for_a_seed_and_begin_differently_for_every_number() -> None:
    assert prompt("a", 1) == prompt("a", 1)
    starts = {prompt(seed, number)[:8] for seed in "ab" for number in range(50)}
    assert len(starts) == 100


def test_candidate_gets_its_share_evenly() -> None:
    asked = [json.loads(body)["model"] for body, _ in zip(
        bodies(Job(url="", model="m", candidate="c", candidate_share=0.25)), range(40), strict=False)]  # fmt: skip
    assert asked.count("c") == 10
    assert asked[:8].count("c") == 2
