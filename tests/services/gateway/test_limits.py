"""Limits of keys, as callers meet them, over two replicas that share a book."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cluster.auth import Keys, Limits
from services.gateway import limits as limits_module
from services.gateway.limits import Accounts, Away, Meter
from tests.services.gateway.conftest import Bench, Client, client_of

CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}


class Book:
    """The real accounts, with what a test may want to see and to break."""

    def __init__(self, patience_s: float = 0.0) -> None:
        self.accounts = Accounts(patience_s)
        self.asked: list[str] = []
        self.away = False

    def __getattr__(self, name: str) -> Any:
        async def ask(*question: Any) -> Any:
            self.asked.append(name)
            if self.away:
                raise Away("gone")
            return await getattr(self.accounts, name)(*question)

        return ask


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def replicas(make: Callable[..., Bench], book: Book) -> tuple[Bench, Bench]:
    return make(book=book), make(book=book)


def key(gateway: Bench, name: str = "app", scopes: tuple[str, ...] = ("infer",), **given: int) -> str:
    every = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent": None}
    return Keys(gateway.state).create(name, scopes, Limits(**{**every, **given}))


async def statuses(clients: list[httpx.AsyncClient], times: int, **options: Any) -> list[int]:
    """Of requests that follow each other, bouncing between clients."""
    answers = [await clients[n % len(clients)].post("/v1/chat/completions", json=CHAT, **options) for n in range(times)]
    return [answer.status_code for answer in answers]


async def test_requests_a_minute_hold_over_replicas_and_each_key_has_its_own(
    replicas: tuple[Bench, Bench], book: Book
) -> None:
    for name in ("alice", "bob"):
        own = key(replicas[0], name, requests_per_minute=5)
        clients = [client_of(replica.app, own) for replica in replicas]
        assert await statuses(clients, 8) == [200] * 5 + [429] * 3
    assert await statuses([replica.client for replica in replicas], 4) == [200] * 4, "a key without limits has none"


async def test_a_refusal_says_when_to_come_back_in_openai_words(replicas: tuple[Bench, Bench]) -> None:
    client = client_of(replicas[0].app, key(replicas[0], requests_per_minute=2))
    first = await client.post("/v1/chat/completions", json=CHAT)
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    await client.post("/v1/chat/completions", json=CHAT)
    refused = await client.post("/v1/chat/completions", json=CHAT)
    assert refused.status_code == 429
    assert 28 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "app may have 2 requests a minute" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_charged_as_counted_and_a_debt_is_known_to_all_replicas(
    replicas: tuple[Bench, Bench], stream: bool
) -> None:
    own = key(replicas[0], tokens_per_minute=25)  # an answer costs 10
    clients = [client_of(replica.app, own) for replica in replicas]
    body = {**CHAT, "stream": stream}
    answers = [await clients[n % 2].post("/v1/chat/completions", json=body) for n in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 14 <= int(answers[3].headers["retry-after"]) <= 15, "six are owed and one is needed, 25 come in a minute"
    assert answers[0].headers["x-ratelimit-limit-tokens"] == "25"


async def test_of_concurrent_requests_as_many_as_allowed_run_and_a_sequential_caller_never_waits(
    replicas: tuple[Bench, Bench],
) -> None:
    own = key(replicas[0], concurrent=1)
    clients = [client_of(replica.app, own) for replica in replicas]
    for body in (CHAT, {**CHAT, "stream": True}, {**CHAT, "model": "nobody"}):
        for n in range(20):
            answer = await clients[n % 2].post("/v1/chat/completions", json=body)
            assert answer.status_code != 429
    replicas[0].engine.pause = asyncio.Event()
    first = asyncio.create_task(clients[0].post("/v1/chat/completions", json=CHAT))
    await replicas[0].engine.reached_pause.wait()
    for client in clients:
        refused = await client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 429 and "1 requests at once" in refused.json()["error"]["message"]
    replicas[0].engine.pause.set()
    assert (await first).status_code == 200
    assert await statuses(clients, 2) == [200, 200]


async def test_a_caller_who_hangs_up_gives_its_slot_back(make: Callable[..., Bench]) -> None:
    book = Book(patience_s=5)
    gateway, other = make(book=book), make(book=book)
    own = key(gateway, concurrent=1)
    gateway.engine.pause = asyncio.Event()
    caller = Client(gateway.app, own, "/v1/chat/completions", {**CHAT, "stream": True})
    await gateway.engine.reached_pause.wait()
    waiting = asyncio.create_task(client_of(other.app, own).post("/v1/chat/completions", json=CHAT))
    await caller.hang_up()
    assert (await waiting).status_code == 200, "the book waits a moment: word of the slot was on its way"


async def test_a_broken_off_stream_is_charged_for_what_it_got(gateway: Bench) -> None:
    own = key(gateway, tokens_per_minute=30)
    gateway.engine.pause = asyncio.Event()
    caller = Client(gateway.app, own, "/v1/chat/completions", {**CHAT, "stream": True})
    await gateway.engine.reached_pause.wait()
    await caller.hang_up()
    gateway.engine.pause = None
    answer = await client_of(gateway.app, own).post("/v1/chat/completions", json=CHAT)
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 30


async def test_a_fast_key_asks_seldom_and_a_key_without_limits_never(replicas: tuple[Bench, Bench], book: Book) -> None:
    assert await statuses([replicas[0].client], 20) == [200] * 20
    assert book.asked == []
    fast = client_of(replicas[0].app, key(replicas[0], requests_per_minute=6000, tokens_per_minute=6_000_000))
    assert await statuses([fast], 80) == [200] * 80
    assert len(book.asked) <= 10  # a second's worth is 100 requests; this machine may be slow


async def test_a_lease_that_nobody_uses_goes_back(
    replicas: tuple[Bench, Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "BEAT_S", 0.0)
    own = key(replicas[0], requests_per_minute=120)
    clients = [client_of(replica.app, own) for replica in replicas]
    first = await clients[0].post("/v1/chat/completions", json=CHAT)  # leases two
    await replicas[0].parts.meter.tell()
    then = await clients[1].post("/v1/chat/completions", json=CHAT)
    assert [each.headers["x-ratelimit-remaining-requests"] for each in (first, then)] == ["119", "118"]


async def test_while_the_book_is_away_each_replica_keeps_its_own(replicas: tuple[Bench, Bench], book: Book) -> None:
    own = key(replicas[0], requests_per_minute=3)
    book.away = True
    for replica in replicas:
        assert await statuses([client_of(replica.app, own)], 5) == [200] * 3 + [429] * 2
    assert len(book.asked) == 2, "a book that is away is left alone for a while"


async def test_an_evaluation_is_not_limited_and_a_bad_request_is(replicas: tuple[Bench, Bench]) -> None:
    own = key(replicas[0], scopes=("infer", "admin"), requests_per_minute=2)
    client = client_of(replicas[0].app, own)
    assert await statuses([client], 6, headers={"x-trivium-purpose": "evaluation"}) == [200] * 6
    assert (await client.post("/v1/chat/completions", content=b"{")).status_code == 400
    assert await statuses([client], 2) == [200, 429]


async def test_a_forwarded_request_is_counted_once_and_its_tokens_are_charged(make: Callable[..., Bench]) -> None:
    book = Book()
    qwen = make(served="qwen", prefix="/bases/qwen", book=book)

    async def forward(call: Any, prefix: str, send: Any) -> None:
        """As `HttpForwarder` does, without the wire."""
        from services.gateway.edge import FORWARDED, forward_tag

        tag = forward_tag(qwen.parts.mint_key, call.request_id.encode()).decode()
        headers = {
            "authorization": call.headers[b"authorization"].decode(),
            "x-request-id": call.request_id,
            FORWARDED.decode(): tag,
        }
        transport = httpx.ASGITransport(qwen.app, root_path=prefix)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.post(f"{prefix}{call.path}", content=call.raw, headers=headers)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": []})
        await send({"type": "http.response.body", "body": answer.content})

    seed = make(forward=forward, book=book)
    own = key(seed, requests_per_minute=3, tokens_per_minute=300, concurrent=1)
    client = client_of(seed.app, own)
    body = {**CHAT, "model": "qwen"}
    answers = [await client.post("/v1/chat/completions", json=body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["x-ratelimit-remaining-tokens"] == "270"


async def test_a_question_that_was_never_answered_leaves_no_slot_behind(book: Book) -> None:
    """The caller hangs up while its replica still asks: the next beat tells the book that nobody holds the slot."""
    given = Limits(requests_per_minute=None, tokens_per_minute=None, concurrent=1)
    await book.accounts.enter("k", given, "lost", "r", 0, 0)
    meter = Meter("r", book)
    meter._beat_due = True
    await meter.tell()
    answer = await book.accounts.enter("k", given, "next", "r", 0, 0)
    assert type(answer).__name__ == "Granted"
