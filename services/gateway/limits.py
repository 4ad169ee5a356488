"""What a key may do, held over all replicas: one book for the cluster, and in each replica a meter that asks it.

A key without limits costs nothing here. For a key that may do much a minute the meter leases a second's worth of
requests and of tokens at a time: a few questions a second, however many requests. A slot of a key with `concurrent` is
asked for each time, and given back before the last byte of the answer leaves, so that a caller who goes on with another
replica never finds it taken by what it has just finished.

While the book is away each replica keeps its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.auth import Limits, Principal
from services.gateway.call import call_of
from services.gateway.errors import Headers, Refusal
from services.gateway.ledger import Answer, Granted, Ledger, Left, Refused, a_second_of

logger = logging.getLogger(__name__)

BEAT_S = 1.0
"""How long a lease lasts, and how often a replica says which slots it holds."""
ASK_S = 5.0
"""Longest that a question may take: the first one makes the book."""
AWAY_S = 10.0
"""How long a book that did not answer is left alone."""
PATIENCE_S = 0.5
"""How long the book waits for a slot before it refuses: a replica hears a moment later that a caller hung up."""

Value = TypeVar("Value")


class Away(Exception):
    """The book does not answer."""


class Book(Protocol):
    """The cluster's one account of what keys have used (`services/limiter.py`). Raises `Away`."""

    async def enter(self, key: str, limits: Limits, ticket: str, replica: str, tokens: int, unused: int) -> Answer: ...

    async def settle(self, key: str, limits: Limits, ticket: str, tokens: int, unused: int) -> None: ...

    async def renew(self, replica: str, held: Mapping[str, str], pending: Set[str]) -> None: ...


class Accounts:
    """A ledger behind a clock: what the book does in its own process, and what a replica does without it."""

    def __init__(self, patience_s: float = 0.0) -> None:
        self._ledger = Ledger()
        self._patience_s = patience_s
        self._freed = asyncio.Condition()

    async def enter(self, key: str, limits: Limits, ticket: str, replica: str, tokens: int, unused: int) -> Answer:
        self._ledger.settle(key, limits, time.monotonic(), tokens=tokens, unused=unused)
        until = time.monotonic() + self._patience_s
        while True:
            now = time.monotonic()
            answer = self._ledger.enter(key, limits, ticket, replica, now)
            if isinstance(answer, Granted) or answer.what != "concurrent" or now >= until:
                return answer
            try:
                async with asyncio.timeout(until - now), self._freed:
                    await self._freed.wait()
            except TimeoutError:
                continue

    async def settle(self, key: str, limits: Limits, ticket: str, tokens: int, unused: int) -> None:
        self._ledger.settle(key, limits, time.monotonic(), ticket=ticket, tokens=tokens, unused=unused)
        async with self._freed:
            self._freed.notify_all()

    async def renew(self, replica: str, held: Mapping[str, str], pending: Set[str]) -> None:
        self._ledger.renew(replica, held, pending, time.monotonic())

    def settled(self) -> bool:
        return self._ledger.settled(time.monotonic())


@dataclass
class _Lease:
    """What a replica may give out of a key by itself, and what it has not told the book yet."""

    limits: Limits
    requests: int = 0
    until: float = 0.0
    left: Left = field(default_factory=lambda: Left(None, None))
    owed: int = 0
    """Tokens."""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def left_here(self) -> Left:
        return Left(_plus(self.left.requests, self.requests), self.left.tokens)


class Meter:
    """A replica's side."""

    def __init__(self, replica: str, book: Book | None = None) -> None:
        self._replica, self._book = replica, book
        self._own = Accounts()
        self._away_until = 0.0
        self._leases: dict[str, _Lease] = {}
        self._held: dict[str, str] = {}
        self._pending: set[str] = set()
        self._beat_due = False
        self._leaving: set[asyncio.Task[None]] = set()

    async def enter(self, who: Principal, ticket: str) -> Answer:
        """May this principal begin a request?"""
        lease = self._leases.setdefault(who.key, _Lease(who.limits))
        lease.limits = who.limits
        if who.limits.concurrent:
            return await self._ask(who.key, lease, ticket)
        async with lease.asking:  # one question for all that came meanwhile
            if lease.requests > 0 and time.monotonic() < lease.until and _some(lease.left.tokens):
                lease.requests -= 1
                return Granted(1, lease.left_here)
            return await self._ask(who.key, lease, ticket)

    def leave(self, who: Principal, ticket: str, tokens: int) -> Awaitable[None]:
        """The request is over. What is returned may be awaited or not: it happens all the same."""
        task = asyncio.get_running_loop().create_task(self._leave(who, ticket, tokens))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return asyncio.shield(task)

    async def beat(self) -> None:
        """For ever: say which slots are held, and give back what is leased and not used."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.tell()
            except Exception:
                logger.exception("the book of limits could not be told what this replica holds")

    async def tell(self) -> None:
        """One beat."""
        if self._held or self._pending or self._beat_due:
            self._beat_due = bool(self._held or self._pending)  # once more after the last one, to correct a lost word
            held, pending = dict(self._held), frozenset(self._pending)
            await self._reach(lambda book: book.renew(self._replica, held, pending))
        for key, lease in list(self._leases.items()):
            if (lease.requests or lease.owed) and time.monotonic() >= lease.until and not lease.asking.locked():
                await self._settle(key, lease, "")

    async def _ask(self, key: str, lease: _Lease, ticket: str) -> Answer:
        limits, unused, owed = lease.limits, lease.requests, lease.owed
        lease.requests = lease.owed = 0
        self._pending.add(ticket)
        self._beat_due = self._beat_due or limits.concurrent is not None  # its caller may hang up before the answer
        try:
            answer = await self._reach(lambda book: book.enter(key, limits, ticket, self._replica, owed, unused))
        finally:
            self._pending.discard(ticket)
        if isinstance(answer, Refused):
            return answer
        lease.requests, lease.until, lease.left = answer.requests - 1, time.monotonic() + BEAT_S, answer.left
        if limits.concurrent:
            self._held[ticket] = key
        return Granted(1, lease.left_here)

    async def _leave(self, who: Principal, ticket: str, tokens: int) -> None:
        lease = self._leases.setdefault(who.key, _Lease(who.limits))
        if who.limits.tokens_per_minute:
            lease.owed += tokens
            lease.left = Left(lease.left.requests, _plus(lease.left.tokens, -tokens))
        spent = lease.owed > 0 and lease.owed >= a_second_of(who.limits.tokens_per_minute or 1)
        if spent:
            lease.until = 0.0
        if self._held.pop(ticket, None) is not None or spent:
            await self._settle(who.key, lease, ticket)

    async def _settle(self, key: str, lease: _Lease, ticket: str) -> None:
        limits, unused, owed = lease.limits, 0 if ticket else lease.requests, lease.owed
        lease.requests -= unused
        lease.owed = 0
        await self._reach(lambda book: book.settle(key, limits, ticket, owed, unused))

    async def _reach(self, ask: Callable[[Book], Awaitable[Value]]) -> Value:
        if self._book and time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(ASK_S):
                    return await ask(self._book)
            except (Away, TimeoutError) as error:
                self._away_until = time.monotonic() + AWAY_S
                logger.warning("the book of limits is away (%r); for %.0f s this replica keeps its own", error, AWAY_S)
        return await ask(self._own)


class Limit:
    """Lets a request in if its key may begin one now, and settles when its answer ends, or its caller hangs up."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        who = call.principal
        if not who.limited or call.evaluation or call.shadow_of:
            return await self._app(scope, receive, send)
        headers: Headers = []
        if not call.forwarded:  # else the gateway that sent it on has let it in; here only its tokens are known
            answer = await self._meter.enter(who, call.request_id)
            headers = _told(who.limits, answer.left)
            if isinstance(answer, Refused):
                raise _too_much(who, answer, headers)
        left = False

        async def leave() -> None:
            nonlocal left
            if not left:
                left = True
                await self._meter.leave(who, call.request_id, call.tokens)

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            elif not message.get("more_body", False):
                await leave()
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            if not left:
                self._meter.leave(who, call.request_id, call.tokens)  # nobody waits any more
            raise
        except Exception:
            await leave()  # before somebody words the refusal
            raise
        await leave()


_LIMITS = {"requests": "requests a minute", "tokens": "tokens a minute", "concurrent": "requests at once"}


def _too_much(who: Principal, refused: Refused, headers: Headers) -> Refusal:
    limits = who.limits
    most = {
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
        "concurrent": limits.concurrent,
    }[refused.what]
    wait_s = max(1, math.ceil(refused.retry_after_s))
    message = f"the key of {who.id} may have {most:,} {_LIMITS[refused.what]}; try again in {wait_s:,} s"
    refusal = Refusal(429, message, code="rate_limit_exceeded", retry_after_s=wait_s)
    refusal.headers += headers
    return refusal


def _told(limits: Limits, left: Left) -> Headers:
    """Limits and what is left of them, in OpenAI's headers."""
    pairs = (("requests", limits.requests_per_minute, left.requests), ("tokens", limits.tokens_per_minute, left.tokens))
    return [
        (f"x-ratelimit-{kind}-{what}".encode(), str(max(0, int(value))).encode())
        for what, limit, level in pairs
        if limit is not None and level is not None
        for kind, value in (("limit", limit), ("remaining", level))
    ]


def _plus(level: float | None, more: int) -> float | None:
    return None if level is None else level + more


def _some(level: float | None) -> bool:
    return level is None or level >= 1
