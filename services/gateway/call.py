"""What the chain knows about one request. Each link adds its part; the next ones read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from time import time as now
from typing import Any, Literal, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope

from cluster.auth import Principal

Link = Callable[[ASGIApp], ASGIApp]
"""A middleware with its settings applied: what is left is the app that it wraps."""

Arm = Literal["champion", "candidate", "shadow", "direct"]
"""Which side of a rollout answers (`cluster.records.Record.arm`)."""

KEY = "trivium.call"
"""Where the scope carries the call. Only code in this process can write a scope, so nobody outside can forge one."""


class Routed(NamedTuple):
    """What the gateway that took a request found it to mean. Whoever it is forwarded to goes by that: while an alias
    moves, two gateways may for a moment know different decisions, and no request may fall between them."""

    served: str
    """Base or full-weight version of the application that is to answer."""
    version: str
    adapter: str | None
    alias: str | None
    arm: Arm
    shadow_of: str | None


@dataclass(slots=True)
class Call:
    request_id: str
    forwarded: bool
    """Another gateway of this cluster sent it on."""
    path: str
    """Path below the application's own prefix."""
    headers: dict[bytes, bytes]
    time: float = field(default_factory=now)
    started: float = field(default_factory=perf_counter)
    principal: Principal = field(default_factory=lambda: Principal("", ()))
    raw: bytes = b""
    """The body as it came."""
    body: dict[str, Any] = field(default_factory=dict)
    """The body as the caller meant it, without what callers must not set."""
    evaluation: bool = False
    """A replay of the holdout: waits behind live traffic, and is not traffic, so it is not logged."""
    tokens: int = 0
    """What the answer cost, prompt and completion together: known when it ends."""
    alias: str | None = None
    version: str = ""
    arm: Arm = "direct"
    behalf: str | None = None
    """Principal that another application of the cluster asks for, in place of a key."""
    shadow_of: str | None = None
    """Id of the request that a user sees the answer of, where this one answers it once more, unseen."""
    routed: Routed | None = None
    """Where another application answers: what it goes by."""

    @property
    def session(self) -> str:
        return self.headers.get(b"x-session-id", b"").decode("latin-1")[:256] or self.request_id


def call_of(scope: Scope) -> Call:
    return scope[KEY]


def path_below_prefix(scope: Scope) -> str:
    """The path without the application's route prefix (ASGI: `path` includes `root_path`)."""
    return scope["path"][len(scope.get("root_path", "")) :] or "/"


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, then whatever the connection says next (a disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def never() -> Message:
    """A `receive` that says nothing more: this client never hangs up."""
    return await asyncio.get_running_loop().create_future()


def fold(app: ASGIApp, links: list[Link]) -> ASGIApp:
    """Wrap `app` so that the first link is the outermost."""
    for link in reversed(links):
        app = link(app)
    return app
