"""What keys have left: buckets that refill, and slots for requests under way. Arithmetic on an explicit clock.

A minute's worth fits into a bucket, and it refills continuously, so a key may spend its minute at once and then goes on
at its rate. Requests are taken before they begin. Tokens are known only afterwards: their bucket goes below zero, and
later requests wait until it is back. A slot belongs to a ticket (a request), and a ticket to a replica that says every
second which ones it still holds: those of a replica that died come back by themselves.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from cluster.auth import Limits

LAPSE_S = 5.0
"""A replica that says nothing for so long has lost its slots."""

_ONE = 1 - 1e-9
"""Who has waited as long as told must not fail for a rounding."""
_MANY = 1_000_000
"""A lease of a key whose requests are not limited: it is the time that ends it."""

What = Literal["requests", "tokens", "concurrent"]


@dataclass(frozen=True)
class Left:
    """What a key has left after a question. None: no limit."""

    requests: float | None
    tokens: float | None


@dataclass(frozen=True)
class Granted:
    requests: int
    """How many the asker may let in, the one that it asked for among them."""
    left: Left


@dataclass(frozen=True)
class Refused:
    what: What
    retry_after_s: float
    """After so long the same question is answered otherwise, if the key asks for nothing else meanwhile."""
    left: Left


Answer = Granted | Refused


def a_second_of(per_minute: int) -> int:
    """How many requests are leased at a time, and how many tokens may be spent on a lease."""
    return max(1, per_minute // 60)


@dataclass
class _Bucket:
    level: float
    at: float

    def refilled(self, per_minute: int, now: float) -> float:
        self.level = min(per_minute, self.level + max(0.0, now - self.at) * per_minute / 60)
        self.at = now
        return self.level


@dataclass
class Ledger:
    """The accounts of all keys, by key id."""

    _requests: dict[str, _Bucket] = field(default_factory=dict)
    _tokens: dict[str, _Bucket] = field(default_factory=dict)
    _slots: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key: ticket: replica."""
    _heard: dict[str, float] = field(default_factory=dict)
    """When a replica last said something."""

    def enter(self, key: str, limits: Limits, ticket: str, replica: str, now: float) -> Answer:
        """May this key begin a request?"""
        self._lapse(now)
        left = self._left(key, limits, now)
        waits: dict[What, float] = {}
        if limits.requests_per_minute and left.requests is not None and left.requests < _ONE:
            waits["requests"] = (1 - left.requests) * 60 / limits.requests_per_minute
        if limits.tokens_per_minute and left.tokens is not None and left.tokens < _ONE:
            waits["tokens"] = (1 - left.tokens) * 60 / limits.tokens_per_minute
        if waits:
            what = max(waits, key=lambda each: waits[each])
            return Refused(what, waits[what], left)
        slots = self._slots.setdefault(key, {})
        if limits.concurrent and len(slots) >= limits.concurrent:
            return Refused("concurrent", 1.0, left)
        granted = 1
        if limits.concurrent:
            slots[ticket], self._heard[replica] = replica, now
        else:
            most = _MANY if limits.requests_per_minute is None else a_second_of(limits.requests_per_minute)
            granted = max(1, min(most, int(most if left.requests is None else left.requests)))
        if left.requests is not None:
            self._requests[key].level -= granted
        return Granted(granted, self._left(key, limits, now))

    def settle(
        self, key: str, limits: Limits, now: float, *, ticket: str = "", tokens: int = 0, unused: int = 0
    ) -> None:
        """A request ended, or a lease is given back."""
        self._slots.get(key, {}).pop(ticket, None)
        self._left(key, limits, now)
        if key in self._tokens:
            self._tokens[key].level -= tokens
        if key in self._requests:
            self._requests[key].level += unused

    def renew(self, replica: str, held: Mapping[str, str], pending: Set[str], now: float) -> None:
        """A replica says which tickets it holds (ticket: key), and which it has asked for and not heard of yet.

        What else it had is free: the word of it got lost. What is new here was held before this ledger began.
        """
        self._heard[replica] = now
        for slots in self._slots.values():
            for ticket in [t for t, owner in slots.items() if owner == replica and t not in held and t not in pending]:
                del slots[ticket]
        for ticket, key in held.items():
            self._slots.setdefault(key, {})[ticket] = replica

    def settled(self, now: float) -> bool:
        """Whether nothing would be lost with this ledger: no slot is taken, no token owed."""
        self._lapse(now)
        return not any(self._slots.values()) and all(bucket.level >= 0 for bucket in self._tokens.values())

    def _left(self, key: str, limits: Limits, now: float) -> Left:
        return Left(
            _level(self._requests, key, limits.requests_per_minute, now),
            _level(self._tokens, key, limits.tokens_per_minute, now),
        )

    def _lapse(self, now: float) -> None:
        for replica in [replica for replica, heard in self._heard.items() if now - heard > LAPSE_S]:
            del self._heard[replica]
            for slots in self._slots.values():
                for ticket in [ticket for ticket, owner in slots.items() if owner == replica]:
                    del slots[ticket]


def _level(buckets: dict[str, _Bucket], key: str, per_minute: int | None, now: float) -> float | None:
    if per_minute is None:
        return None
    return buckets.setdefault(key, _Bucket(per_minute, now)).refilled(per_minute, now)
