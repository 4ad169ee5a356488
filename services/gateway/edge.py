"""The outermost layer, around Serve's own: takes what callers must not say to Serve, and gives every request its id.

Serve reads `x-request-disconnect-disabled`, `x-request-timeout-seconds` and `x-request-id` before it calls an
application, so a middleware of the application comes too late for them. Serve itself offers the place: it wraps the
server of every replica in what `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=services.gateway.edge:middlewares` returns.

The layer leaves its mark in the scope, where no caller can write, and the chain refuses requests without it. It also
rewords what Serve says by itself while an application is away: plain text, or no answer at all, which becomes a 500.
"""

from __future__ import annotations

import hashlib
import hmac
import time

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import auth, ids
from cluster.settings import Settings
from services.gateway.behalf import BEHALF, verified
from services.gateway.errors import Headers, Refusal, send_json

CALLBACK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "services.gateway.edge:middlewares")
MARK = "trivium.edge"
ASKING = "trivium.asking"
"""Where the scope says on whose behalf another application of the cluster asks."""
FORWARDED = b"x-trivium-forwarded"
ROUTED = b"x-trivium-routed"
"""What the gateway that forwards has found a request to mean (`call.Routed`, as JSON)."""

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
        ROUTED,
        BEHALF,
    )
)


def middlewares() -> list[Middleware]:
    """What Serve asks for when a replica starts its HTTP server."""
    return [Middleware(Edge, mint_key=auth.mint_key(Settings.from_environment().state))]


class Edge:
    """Strips, mints, marks; lets an answer carry exactly one `x-request-id`, ours, and no words of Serve's."""

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
        if forwarded and ROUTED in given:
            scope["headers"].append((ROUTED, given[ROUTED]))
        scope[MARK] = (request_id, forwarded)
        scope[ASKING] = verified(self._key, given[BEHALF], time.time()) if BEHALF in given else None
        answer = Answer(send, request_id.encode(), ours="/v1/" in scope["path"])
        try:
            await self._app(scope, receive, answer.take)
        finally:
            if answer.ours and not answer.started:
                await answer.nobody()  # Serve's proxy leaves it at that when a replica dies before it says a word

    def _is_ours(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a gateway of this cluster forwarded the request: then it keeps its id."""
        request_id, tag = headers.get(b"x-request-id", b""), headers.get(FORWARDED, b"")
        return bool(tag) and hmac.compare_digest(tag, forward_tag(self._key, request_id))


def forward_tag(key: bytes, request_id: bytes) -> bytes:
    """Proof that a forwarded request comes from a gateway that knows the mint key."""
    return hmac.new(key, b"forward:" + request_id, hashlib.sha256).hexdigest().encode()


class Answer:
    """Passes an answer on."""

    def __init__(self, send: Send, request_id: bytes, ours: bool) -> None:
        self._send, self._id = send, (b"x-request-id", request_id)
        self.ours = ours
        """Below a path of OpenAI's: other applications of the cluster may say what they like."""
        self.started = self._muted = False

    async def take(self, message: Message) -> None:
        """Take one ASGI message of Serve's."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = [(k.lower(), v) for k, v in message.get("headers", ())]
            if self.ours and message["status"] >= 400 and _plain(headers):
                self._muted = True
                return await self.nobody()
            headers = [(k, v) for k, v in headers if k != b"x-request-id"]
            message = {**message, "headers": [*headers, self._id]}
        elif self._muted:
            return
        await self._send(message)

    async def nobody(self) -> None:
        """Say that no replica has answered. Serve's own words for it are 404, 500 and 503."""
        refusal = Refusal(503, "no replica answers now; try again shortly", code="unavailable", retry_after_s=1)
        await send_json(self._send, refusal.status, refusal.body, [*refusal.headers, self._id])


def _plain(headers: Headers) -> bool:
    """Whether it is Serve that speaks: our chain and the engine answer with JSON."""
    return dict(headers).get(b"content-type", b"").startswith(b"text/plain")
