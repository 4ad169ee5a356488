"""MCP servers over HTTP, as this cluster serves them: with its own API keys, for clients of both eras.

Streamable HTTP on the official SDK's server. Requests of specification 2026-07-28 stand alone, and any replica answers
them. Older clients (2025-11-25) shake hands first; a server that never asks its client back needs no session for that,
so any replica answers these too. One that does (sampling, elicitation) keeps `sessions`, in one replica.

The SDK checks `Host` and `Origin` and words the protocol's errors. Ours are the keys: no key is 401, and one without
the scope `agents` 403, both with `WWW-Authenticate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import Keys, Principal
from cluster.settings import Strict

SCOPE = "agents"
"""What a key needs to come in; `Scopes` asks for more where a tool does."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")


class McpSettings(Strict):
    """Who may reach an MCP server, and how."""

    hosts: tuple[str, ...] = ()
    """Names in `Host` besides this machine's own on loopback, with any port: `agents.example.com`."""
    origins: tuple[str, ...] = ()
    """Web pages besides those on loopback that may call, as browsers name them: `https://chat.example.com`."""
    sessions: bool = False
    """Keep sessions for older clients. Needed where tools ask the client back; then there can be one replica only."""
    most_bytes: int = 1 << 20
    """Of one request."""


class Bearer(AccessToken):
    """What the SDK keeps of a key that it has let in: not the key, but whom it speaks for."""

    who: Principal


class KeyVerifier:
    """The cluster's keys, as the SDK asks for them."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def verify_token(self, token: str) -> Bearer | None:
        who = self._keys.authenticate(f"Bearer {token}")
        return Bearer(token=who.key, client_id=who.id, scopes=list(who.scopes), who=who) if who else None


def serve(server: MCPServer[Any], keys: Keys, settings: McpSettings) -> ASGIApp:
    """The application that answers for one server, wherever it is mounted. Its lifespan must run."""
    server.streamable_http_app(  # makes the manager; the application around it has a path of its own, and no keys
        stateless_http=not settings.sessions,
        max_request_body_size=settings.most_bytes,
        transport_security=_security(settings),
    )
    manager = server.session_manager
    endpoint = RequireAuthMiddleware(StreamableHTTPASGIApp(manager), [SCOPE])
    guarded = AuthenticationMiddleware(AuthContextMiddleware(endpoint), backend=BearerAuthBackend(KeyVerifier(keys)))
    router = Router(lifespan=lambda _: manager.run(), redirect_slashes=False)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (guarded if scope["type"] == "http" else router.not_found)(scope, receive, send)

    router.default = answer
    return router


def caller(context: ServerRequestContext[Any, Any]) -> Principal:
    """Whose key a request came with."""
    assert context.request is not None, "only HTTP requests have keys"
    return context.request.user.access_token.who


class Scopes:
    """Tools that need a scope of their own: others neither see nor call them."""

    def __init__(self, needed: Mapping[str, str]) -> None:
        self._needed = needed
        """Scope by tool."""

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        match ctx.method:
            case "tools/call":
                self._check(caller(ctx), str((ctx.params or {}).get("name")))
            case "tools/list":
                return self._seen_by(caller(ctx), await call_next(ctx))
        return await call_next(ctx)

    def _check(self, who: Principal, tool: str) -> None:
        scope = self._needed.get(tool)
        if scope is not None and scope not in who.scopes:
            raise MCPError(INVALID_REQUEST, f"{tool} needs a key with the scope {scope}, and that of {who.id} has none")

    def _seen_by(self, who: Principal, listing: HandlerResult) -> HandlerResult:
        assert isinstance(listing, dict), "the SDK gives what goes out"
        tools = [tool for tool in listing["tools"] if self._needed.get(tool["name"], SCOPE) in who.scopes]
        return {**listing, "tools": tools}


def _security(settings: McpSettings) -> TransportSecuritySettings:
    hosts = [*LOCAL, *settings.hosts]
    return TransportSecuritySettings(
        allowed_hosts=[*hosts, *(f"{host}:*" for host in hosts)],
        allowed_origins=[*(f"http://{host}{port}" for host in LOCAL for port in ("", ":*")), *settings.origins],
    )
