"""The outermost layer, around Serve's own: takes what callers must not say to Serve, and gives every request its id.

Serve reads `x-request-disconnect-disabled`, `x-request-timeout-seconds` and `x-request-id` before it calls an
application, so a middleware of the application comes too late for them. Serve itself offers the place: it wraps the
server of every replica in what `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=services.gateway.edge:middlewares` returns.

The layer leaves its mark in the scope, where no caller can write, and the chain refuses requests without it.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import auth, ids
from cluster.settings import Settings

CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "services.gateway.edge:middlewares")
MARK = "trivium.edge"
FORWARDED = b"x-trivium-forwarded"

_STRIPPED = frozenset(
    (
        b"x-request-id",  # ids are minted here, so that feedback can tell ours from others
        b"x-request-disconnect-disabled",  # would keep the engine generating for a client that has gone
        b"x-request-timeout-seconds",
        b"serve-multiplexed-model-id",  # makes the replica look for adapters where the caller says
        b"serve_multiplexed_model_id",
        b"endpoint-load-metrics-format",  # makes the engine tell its load
        b"x-data-parallel-rank",
        FORWARDED,
    )
)


def middlewares() -> list[Middleware]:
    """What Serve asks for when a replica starts its HTTP server."""
    return [Middleware(Edge, mint_key=auth.mint_key(Settings.from_environment().state))]


class Edge:
    """Strips, mints, marks; and lets an answer carry exactly one `x-request-id`: ours."""

    def __init__(self, app: ASGIApp, mint_key: bytes) -> None:
        self._app, self._key = app, mint_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"])
        forwarded = self._is_ours(given)
        request_id = given[b"x-request-id"].decode() if forwarded else ids.mint(self._key)
        scope["headers"] = [(k, v) for k, v in scope["headers"] if k not in _STRIPPED]
        scope["headers"].append((b"x-request-id", request_id.encode()))
        scope[MARK] = (request_id, forwarded)
        await self._app(scope, receive, partial(_send_with_one_id, send, request_id.encode()))

    def _is_ours(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a gateway of this cluster forwarded the request: then it keeps its id."""
        request_id, tag = headers.get(b"x-request-id", b""), headers.get(FORWARDED, b"")
        return bool(tag) and hmac.compare_digest(tag, forward_tag(self._key, request_id))


def forward_tag(key: bytes, request_id: bytes) -> bytes:
    """Proof that a forwarded request comes from a gateway that knows the mint key."""
    return hmac.new(key, b"forward:" + request_id, hashlib.sha256).hexdigest().encode()


async def _send_with_one_id(send: Send, request_id: bytes, message: Message) -> None:
    if message["type"] == "http.response.start":
        headers = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"x-request-id"]
        message = {**message, "headers": [*headers, (b"x-request-id", request_id)]}
    await send(message)
