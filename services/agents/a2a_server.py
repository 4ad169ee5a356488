"""The agents to other agents: A2A 1.0, for each agent its card and the JSON-RPC and HTTP+JSON bindings.

    /NAME/.well-known/agent-card.json   what it is and how to reach it; for everybody
    /NAME/a2a                           JSON-RPC; HTTP+JSON below it. A key with the scope `agents`

The SDK speaks the protocol, `a2a_handler.py` answers: a task is a run, so it outlives every replica. `routes` is what
the application mounts where the agents are, and beside it runs a `push.Courier`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.response_helpers import build_error_response
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.utils.constants import A2A_JSON_MEDIA_TYPE, AGENT_CARD_WELL_KNOWN_PATH
from a2a.utils.error_handlers import build_rest_error_payload
from a2a.utils.errors import (
    ContentTypeNotSupportedError,
    InvalidRequestError,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import Keys, Principal
from cluster.settings import Strict
from services.agents import a2a_tasks
from services.agents.a2a_handler import Handler
from services.agents.contract import Agent, Runs
from services.agents.push import PushSettings, Subscriptions

SCOPE = "agents"
MOST_BYTES = 4 * 2**20
"""Of one request."""

_JSON = ("application/json", A2A_JSON_MEDIA_TYPE)


class A2ASettings(Strict):
    """How the agents meet others."""

    url: str | None = None
    """Where the agents are for others, such as https://example.org/agents; left out: where the card was asked for."""
    public_cards: bool = True
    """Whether a card is shown to those without a key, as discovery wants it; it tells the agent's description."""
    card_max_age_s: int = 60
    """How long others may keep a card."""
    poll_s: float = 0.5
    """How soon a stream sees that a question was answered."""
    push: PushSettings = PushSettings()


def routes(
    agents: dict[str, Agent], runs: Runs, keys: Keys, subscriptions: Subscriptions, settings: A2ASettings
) -> list[BaseRoute]:
    """Of these agents, below the path where the application has them."""
    found: list[BaseRoute] = []
    for name, agent in agents.items():
        place = f"/{quote(name)}/a2a"
        handler = Handler(runs, name, subscriptions, settings.poll_s)
        callers = Callers()
        # With a slash at its end too: some clients put one there, and a redirect would be a second request.
        rpc = [
            each for at in (place, f"{place}/") for each in create_jsonrpc_routes(handler, at, context_builder=callers)
        ]
        rest = create_rest_routes(handler, context_builder=callers, path_prefix=place)
        shown = Route(f"/{quote(name)}{AGENT_CARD_WELL_KNOWN_PATH}", _card(name, agent, settings))
        for route in [shown, *rpc, *rest]:
            if isinstance(route, Route):  # what is left is the same once more below a tenant; there are none
                if route is not shown or not settings.public_cards:
                    route.app = Door(route.app, keys, rpc=route in rpc)
                found.append(route)
    return found


def _card(name: str, agent: Agent, settings: A2ASettings) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        here = str(request.url.replace(query="")).removesuffix(f"/{quote(name)}{AGENT_CARD_WELL_KNOWN_PATH}")
        base = (settings.url or here).rstrip("/")
        age = f"max-age={settings.card_max_age_s}"
        (route,) = create_agent_card_routes(a2a_tasks.card(name, agent, base), cache_control=age)
        return await route.endpoint(request)

    return show


# At the door: who it is, and whether it is JSON


class Door:
    """Lets those in who have a key with the scope. A body that is no JSON or too long gets its binding's error."""

    def __init__(self, app: ASGIApp, keys: Keys, rpc: bool) -> None:
        self._app, self._keys, self._rpc = app, keys, rpc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        principal = self._keys.authenticate(request.headers.get("authorization"))
        if principal is None or SCOPE not in principal.scopes:
            await _turned_away(principal)(scope, receive, send)
        elif _is_foreign(request.headers.get("content-type")):
            await self._foreign()(scope, receive, send)
        else:
            request.state.principal = principal
            await self._app(scope, _bounded(receive), send)

    def _foreign(self) -> Response:
        error = ContentTypeNotSupportedError(f"a body is {' or '.join(_JSON)}")
        if self._rpc:
            return JSONResponse(build_error_response(None, error))
        return JSONResponse(build_rest_error_payload(error), 400)


class Callers(DefaultServerCallContextBuilder):
    """Hands on who it is."""

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.state["principal"] = request.state.principal
        return context


def _turned_away(principal: Principal | None) -> Response:
    if principal is None:
        error = {"code": 401, "status": "UNAUTHENTICATED", "message": "give an API key as `Authorization: Bearer KEY`"}
        return JSONResponse({"error": error}, 401, {"www-authenticate": "Bearer"})
    return JSONResponse(
        {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": f"this key lacks the scope {SCOPE}"}}, 403
    )


def _bounded(receive: Receive) -> Receive:
    left = MOST_BYTES

    async def some() -> Any:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise InvalidRequestError(f"a request has at most {MOST_BYTES:,} bytes")
        return message

    return some


def _is_foreign(content_type: str | None) -> bool:
    return content_type is not None and content_type.partition(";")[0].strip().lower() not in _JSON
