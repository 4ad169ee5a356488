"""The agents' A2A server on loopback, over runs that are in the test's own hands."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.types.a2a_pb2 import Message, Part, Role, SendMessageRequest, StreamResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from cluster.auth import Keys
from services.agents.a2a_server import A2ASettings, routes
from services.agents.push import Courier, PushSettings, Subscriptions
from tests.services.agents.fake_runs import FakeRuns

BINDINGS = ("JSONRPC", "HTTP+JSON")
QUICK = PushSettings(allow=("127.0.0.0/8",), plain_http=True, backoff_s=0.01, look_every_s=0.01, attempts=4)
"""For receivers on loopback."""


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """An application on a free port of loopback, in this event loop. Its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        work = asyncio.create_task(server.serve(sockets=[listening]))
        await until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await work


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    """A coroutine beside the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    async with asyncio.timeout(within_s):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


@dataclass
class World:
    """The server, a key for it, and somebody else's."""

    url: str
    runs: FakeRuns
    subscriptions: Subscriptions
    key: str
    other: str
    unfit: str
    """A key without the scope."""

    def http(self, key: str | None = "", **headers: str) -> httpx.AsyncClient:
        if key is not None:
            headers["authorization"] = f"Bearer {key or self.key}"
        return httpx.AsyncClient(headers={"a2a-version": "1.0"} | headers, timeout=20, base_url=self.url)

    @asynccontextmanager
    async def client(
        self, binding: str = "JSONRPC", key: str = "", agent: str = "clerk", streaming: bool = True
    ) -> AsyncIterator[Client]:
        """The SDK's own, as its documentation makes it."""
        async with self.http(key) as http:
            card = await A2ACardResolver(http, f"{self.url}/agents/{agent}").get_agent_card()
            config = ClientConfig(httpx_client=http, streaming=streaming, supported_protocol_bindings=[binding])
            yield ClientFactory(config).create(card)


@asynccontextmanager
async def world(
    state: Path, runs: FakeRuns | None = None, push: PushSettings = QUICK, **more: Any
) -> AsyncIterator[World]:
    """Over the same runs and the same state it is the same world, however often it is built."""
    runs = runs or FakeRuns()
    keys = Keys(state)
    names = {entry.name for entry in keys.entries()}
    made = {name: keys.create(f"{name}{len(names)}", ("agents",)) for name in ("me", "other")}
    unfit = keys.create(f"unfit{len(names)}", ("infer",))
    subscriptions = Subscriptions(state, push)
    settings = A2ASettings(poll_s=0.01, push=push, **more)
    app = Starlette(routes=[Mount("/agents", routes=routes(await runs.agents(), runs, keys, subscriptions, settings))])
    async with serving(app) as url, running(Courier(runs, subscriptions, push).serve()):
        yield World(url, runs, subscriptions, made["me"], made["other"], unfit)


@dataclass
class Hook:
    """Somebody who wants to be told. Answers with `statuses` one after the other, then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.json())
        self.paths.append(request.url.path)
        status = self.statuses.pop(0) if self.statuses else 200
        return Response(status_code=status, headers={"location": "/elsewhere"} if status == 307 else {})

    @property
    def states(self) -> list[str]:
        return [body["task"]["status"]["state"].removeprefix("TASK_STATE_") for body in self.bodies]


@asynccontextmanager
async def hook(*statuses: int) -> AsyncIterator[Hook]:
    found = Hook(statuses=list(statuses))
    app = Starlette(routes=[Route("/{path:path}", found.take, methods=["POST"])])
    async with serving(app) as url:
        found.url = f"{url}/hook"
        yield found


def message(text: str, id: str = "m-1", **more: Any) -> Message:
    return Message(message_id=id, role=Role.ROLE_USER, parts=[Part(text=text)], **more)


async def send(client: Client, said: Message, **configuration: Any) -> list[StreamResponse]:
    request = SendMessageRequest(message=said, configuration=configuration)
    return [event async for event in client.send_message(request)]
