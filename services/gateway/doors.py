"""The chain's outer links: only through the edge, errors in OpenAI's words, only known callers, only listed paths."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import telemetry
from cluster.auth import Keys, Principal
from services.gateway.call import KEY, Call, Routed, call_of, path_below_prefix
from services.gateway.edge import ASKING, MARK, ROUTED
from services.gateway.errors import Refusal, send_json

logger = logging.getLogger(__name__)


class Explain:
    """Opens the call, words every refusal, and turns a fault of ours into a 500 that tells nothing about our inside."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            scope[KEY] = _open(scope)
            await self._app(scope, receive, watch)
        except Refusal as refusal:
            telemetry.refused(refusal.status, refusal.code)
            await send_json(send, refusal.status, refusal.body, refusal.headers)
        except Exception:
            if started:
                raise  # the server cuts the connection: the client must not take half an answer for a whole one
            logger.exception("the gateway failed on %s", scope["path"])
            await send_json(send, 500, Refusal(500, "the gateway failed; the cluster's log says why").body)


def _open(scope: Scope) -> Call:
    if MARK not in scope:
        # Without the edge, callers could speak to Serve through headers and ids would not be ours: serve nothing.
        raise Refusal(503, "this cluster was started without Trivium's environment; start it with `trivium up`")
    request_id, forwarded = scope[MARK]
    call = Call(request_id, forwarded, path_below_prefix(scope), dict(scope["headers"]))
    call.behalf = scope.get(ASKING)
    if forwarded and ROUTED in call.headers:
        call.routed = Routed(*json.loads(call.headers[ROUTED]))
        call.shadow_of = call.routed.shadow_of
    return call


@dataclass(frozen=True)
class Authenticate:
    """Puts the key's principal into the call; without one there is no answer but 401."""

    app: ASGIApp
    keys: Keys
    open_paths: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        if call.path not in self.open_paths:
            principal = self._principal(call)
            if principal is None:
                message = "no valid API key: send it as `Authorization: Bearer KEY`; `trivium env` prints the first one"
                raise Refusal(401, message, code="invalid_api_key")
            call.principal = principal
        await self.app(scope, receive, send)

    def _principal(self, call: Call) -> Principal | None:
        if call.behalf is None:
            return self.keys.authenticate(call.headers.get(b"authorization", b"").decode("latin-1"))
        who = self.keys.named(call.behalf)
        # Who may run agents may have them think.
        return who and (replace(who, scopes=(*who.scopes, "infer")) if "agents" in who.scopes else who)


@dataclass(frozen=True)
class Door:
    """One allowed path."""

    method: str
    scope: str | None
    """What the key must be allowed to do."""
    app: ASGIApp


@dataclass(frozen=True)
class Doors:
    """The allow-list: path to door. A path that ends in `/` opens for everything below it."""

    doors: dict[str, Door]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        door = self.doors.get(call.path) or next(
            (door for path, door in self.doors.items() if path.endswith("/") and call.path.startswith(path)), None
        )
        if door is None and call.forwarded:
            # The application that it was meant for is away, so Serve gave it to the one at `/`.
            raise Refusal(503, f"no application answers at {call.path}", code="base_unavailable", retry_after_s=5)
        if door is None:
            raise Refusal(
                404, f"unknown path {call.path}; this API answers {', '.join(self.doors)}", code="unknown_url"
            )
        if scope["method"] != door.method:
            raise Refusal(405, f"{call.path} answers {door.method}, not {scope['method']}", code="method_not_allowed")
        if door.scope and door.scope not in call.principal.scopes:
            raise Refusal(403, f"this key may not do that: it lacks the scope `{door.scope}`", code="missing_scope")
        await door.app(scope, receive, send)


class Admit:
    """At most so many requests at once: beyond it, a quick 503 is kinder than a place in a queue without end."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most, self._inside = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._inside >= self._most:
            message = f"this replica answers {self._most:,} requests already; try again shortly"
            raise Refusal(503, message, code="overloaded", retry_after_s=1)
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1


@dataclass(frozen=True)
class Purpose:
    """What a request is for: an answer, unless `x-trivium-purpose` says that it replays the holdout."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        match call.headers.get(b"x-trivium-purpose"):
            case None:
                pass
            case b"evaluation":
                if "admin" not in call.principal.scopes:
                    raise Refusal(403, "only a key with the scope `admin` may evaluate", code="missing_scope")
                call.evaluation = True
            case _:
                raise Refusal(400, "x-trivium-purpose can only be `evaluation`", code="invalid_header")
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class Lobby:
    """By kind of connection: HTTP to the chain, lifespan to the engine's app, web sockets to nobody."""

    http: ASGIApp
    lifespan: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self.http(scope, receive, send)
            case "lifespan":
                await self.lifespan(scope, receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
