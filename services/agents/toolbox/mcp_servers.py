"""Connections to MCP servers that settings name: one for each, made when it is needed and again when it was lost."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx2
from mcp.client.client import Client
from mcp.client.session import ElicitationFnT, IncomingMessage
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import CONNECTION_CLOSED, CallToolResult, JSONRPCResponse, ToolListChangedNotification
from pydantic import Discriminator, Field, Tag, field_validator

from cluster.settings import Strict
from services.agents.toolbox.consent import Words, words
from services.agents.tools import ToolError

logger = logging.getLogger(__name__)

MOST_PAGES = 100
"""Of one listing."""
CONNECT_S = 10.0
ANSWER_S = 30.0
"""Longest to wait for a handshake or a listing: a program has to start first."""
STREAM_S = 300.0
"""How long a stream may say nothing: servers send something each quarter of a minute."""
_ENDED = "Session terminated"
"""How the SDK words the 404 of a server that knows our session no longer: it has done nothing."""

Value = TypeVar("Value")


class _Server(Strict):
    timeout_s: float = Field(60.0, gt=0)
    """Of one call."""
    check_s: float = Field(300.0, gt=0)
    """Longest that a description which has changed goes unnoticed; it is looked at with the next call."""
    era: Literal["auto", "legacy"] = "auto"
    """`legacy` for servers that take amiss to be asked whether they know 2026-07-28."""


class Stdio(_Server):
    """A program on this machine that is started for us and speaks on its standard input and output."""

    command: str
    args: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Names of the variables that it gets of ours, besides PATH, HOME and the like."""


class Http(_Server):
    """A server elsewhere, by streamable HTTP."""

    url: str
    headers: dict[str, str] = {}
    """By header the name of the environment variable that holds its value: `{authorization: SHOP_AUTHORIZATION}`."""

    @field_validator("url")
    @classmethod
    def _private(cls, given: str) -> str:
        address = urlsplit(given)
        if address.scheme == "https" or (address.scheme == "http" and _is_loopback(address.hostname or "")):
            return given
        raise ValueError("must begin with https://, or with http:// on this machine: what is sent may be secret")


Server = Annotated[
    Annotated[Stdio, Tag("stdio")] | Annotated[Http, Tag("http")],
    Discriminator(lambda given: "http" if isinstance(given, Http) or "url" in dict(given or ()) else "stdio"),
]


class Lost(Exception):
    """The connection broke while a call was under way; nobody knows whether it was carried out."""


class Link:
    """One server. Belongs to the event loop that first uses it; many calls share it."""

    def __init__(
        self,
        name: str,
        server: Stdio | Http,
        *,
        auth: httpx2.Auth | None = None,
        elicit: ElicitationFnT | None = None,
    ) -> None:
        """`auth` authorizes HTTP requests, where headers do not do; `elicit` answers what a server asks back (without
        it the server is told that nobody does)."""
        self.name = name
        self._server, self._auth, self._elicit = server, auth, elicit
        self._lock = asyncio.Lock()
        self._client: Client | None = None
        self._holding: asyncio.Task[None] | None = None
        self._end = asyncio.Event()
        self._tools: dict[str, Words] = {}
        self._listed_at = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether there is a connection, and nothing was heard of its end."""
        return self._client is not None and not self._end.is_set()

    async def tools(self) -> dict[str, Words]:
        """What the server says of its tools, by name; not older than `check_s`. Raises `ToolError`."""
        client = await self._connected()
        if time.monotonic() - self._listed_at > self._server.check_s:
            try:
                self._tools = await self._sent(client, self._list, again=True)
            except Lost:
                raise ToolError(f"the MCP server {self.name} goes away whenever it is asked for its tools") from None
            self._listed_at = time.monotonic()
        return self._tools

    async def call(self, tool: str, arguments: dict[str, Any], *, again: bool) -> CallToolResult:
        """Call a tool; where the connection breaks meanwhile, once more if it may be done `again`.

        Raises `ToolError` for what the server refuses or takes too long for, `Lost`.
        """
        client = await self._connected()

        async def act(client: Client) -> CallToolResult:
            return await client.call_tool(tool, arguments, read_timeout_seconds=self._server.timeout_s)

        return await self._sent(client, act, again)

    async def close(self) -> None:
        """End the connection, and the program if it is one."""
        self._end.set()
        if self._holding is not None:
            await asyncio.wait([self._holding])

    async def _sent(self, client: Client, act: Callable[[Client], Awaitable[Value]], again: bool) -> Value:
        try:
            return await act(client)
        except MCPError as refusal:
            ended = refusal.message == _ENDED
            if refusal.code != CONNECTION_CLOSED and not ended:
                raise ToolError(f"the MCP server {self.name} says: {refusal.message}") from None
            if self._client is client:
                self._end.set()
            if not (again or ended):
                raise Lost from None
        except (RuntimeError, ValueError) as wrong:  # of the SDK: results that their own schema or the protocol forbids
            raise ToolError(f"the MCP server {self.name} answered with what it may not: {_first(wrong)}") from None
        return await self._sent(await self._connected(), act, again=False)

    async def _list(self, client: Client) -> dict[str, Words]:
        found, cursor = dict[str, Words](), None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            found |= {tool.name: words(tool) for tool in page.tools}
            if (cursor := page.next_cursor) is None:
                break
        return found

    # The connection: the SDK wants to be entered and left by one task, so one task holds it.

    async def _connected(self) -> Client:
        async with self._lock:
            if self._client is None or not self.connected:
                await self.close()
                ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
                self._end, self._listed_at = asyncio.Event(), float("-inf")
                self._holding = asyncio.create_task(self._hold(ready, self._end), name=f"mcp-{self.name}")
                try:
                    self._client = await ready
                except Exception as failure:
                    raise ToolError(f"the MCP server {self.name} cannot be reached now: {_first(failure)}") from None
            return self._client

    async def _hold(self, ready: asyncio.Future[Client], end: asyncio.Event) -> None:
        try:
            async with self._opened(end) as client:
                ready.set_result(client)
                await end.wait()
        except Exception as failure:
            if not ready.done():
                ready.set_exception(failure)
            else:
                logger.warning("the connection to the MCP server %s broke: %s", self.name, _first(failure))
        finally:
            end.set()
            if not ready.done():
                ready.cancel()

    @asynccontextmanager
    async def _opened(self, end: asyncio.Event) -> AsyncIterator[Client]:
        async def noticed(message: IncomingMessage) -> None:
            if isinstance(message, ToolListChangedNotification):
                self._listed_at = float("-inf")

        async with (
            self._transport() as transport,
            Client(
                _Ended(transport, end),
                mode=self._server.era,
                read_timeout_seconds=ANSWER_S,
                message_handler=noticed,
                elicitation_callback=self._elicit,
            ) as client,
        ):
            yield client

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[AbstractAsyncContextManager[Any]]:
        match self._server:
            case Stdio(command=command, args=args, environment=names):
                variables = {name: variable(name, self.name) for name in names}
                yield stdio_client(StdioServerParameters(command=command, args=list(args), env=variables))
            case Http(url=url, headers=named):
                headers = {header: variable(name, self.name) for header, name in named.items()}
                ours = _is_loopback(urlsplit(url).hostname or "")  # a proxy for the internet is none for loopback
                patience = httpx2.Timeout(CONNECT_S, read=STREAM_S)
                async with httpx2.AsyncClient(
                    headers=headers,
                    auth=self._auth,
                    timeout=patience,
                    trust_env=not ours,
                    event_hooks={"response": [_forgotten]},
                ) as http:
                    yield streamable_http_client(url, http_client=http)


async def _forgotten(response: httpx2.Response) -> None:
    """Every server has its own words for a session that it knows no longer. Without them the SDK uses its own."""
    if response.status_code == 404 and "mcp-session-id" in response.request.headers:
        response.headers["content-type"] = "text/plain"


class _Ended:
    """A transport that tells when the other side has gone, so that the next call is not sent into nothing."""

    def __init__(self, transport: AbstractAsyncContextManager[Any], ended: asyncio.Event) -> None:
        self._transport, self._ended = transport, ended

    async def __aenter__(self) -> Any:
        read, write = await self._transport.__aenter__()
        return _Listening(read, self._ended), write

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._transport.__aexit__(*error)


class _Listening:
    """The receiving side of a transport."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream, self._ended = stream, ended

    def __aiter__(self) -> _Listening:
        return self

    async def __anext__(self) -> Any:
        try:
            heard = await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended.set()
            raise
        if isinstance(heard, SessionMessage) and isinstance(heard.message, JSONRPCResponse):
            # What 2026-07-28 asks of clients, and the SDK's models do not do: a result without its type is complete.
            heard.message.result.setdefault("resultType", "complete")
        return heard

    async def __aenter__(self) -> _Listening:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._stream.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:  # receive, aclose, and the sender's context where there is one
        return getattr(self._stream, name)


def variable(name: str, server: str, environment: Mapping[str, str] = os.environ) -> str:
    """The value of an environment variable that a server's settings name."""
    try:
        return environment[name]
    except KeyError:
        raise ValueError(f"the environment has no {name}, which the MCP server {server} needs; set it") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first(failure: BaseException) -> str:
    """The first of the errors that it stands for, in one line."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    kind = "" if isinstance(failure, ValueError) else f"{type(failure).__name__}: "  # ours are sentences
    return kind + " ".join(str(failure).split())[:300]
