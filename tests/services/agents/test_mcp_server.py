"""The cluster's tools at /mcp, as the official SDK's client and plain HTTP see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import httpx
import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import Keys, Principal, mint_key
from cluster.decisions import seal
from cluster.records import Decision, Step
from services.agents.contract import ENDED, Agent, Order, View
from services.agents.mcp_offer import Offer, cluster_tools
from services.agents.mcp_server import McpSettings, serve
from tests.services.agents.loopback import listening


@dataclass(frozen=True)
class Remembered:
    text: str
    source: str
    score: float


class Shelves:
    """A memory with one passage for each principal."""

    async def search(self, principal: str, query: str, count: int) -> list[Remembered]:
        return [Remembered(f"{principal} asked for {query}", "notes", 1.0)][:count]


@dataclass
class Office:
    """Runs that end as they are told to, and remember who asked."""

    runs: dict[str, View] = field(default_factory=dict)
    finish: asyncio.Event = field(default_factory=asyncio.Event)

    async def agents(self) -> dict[str, Agent]:
        return {"clerk": Agent(description="Does what it is told.")}

    async def start(self, who: Principal, agent: str, task: str, **order: Unpack[Order]) -> View:
        if agent not in await self.agents():
            raise ValueError(f"there is no agent {agent}; there are: clerk")
        view = View(
            id=order.get("run") or f"run-{len(self.runs)}",
            agent=agent,
            principal=who.id,
            thread=order.get("thread") or "thread",
            state="working",
            task=task,
            created=1.0,
            updated=1.0,
        )
        return self.runs.setdefault(view.id, view)

    async def get(self, who: Principal, run: str) -> View:
        view = self.runs[run]
        if view.principal != who.id:
            raise KeyError(run)
        return view

    async def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        view = await self.get(who, run)
        if view.state not in ENDED:
            yield Step(
                request_id=f"{run}/0",
                time=1.0,
                principal=who.id,
                session="thread",
                run=run,
                number=0,
                agent=view.agent,
                source="test",
                event="turn",
            )
            await self.finish.wait()
            self.runs[run] = view.model_copy(update={"state": "completed", "answer": f"did {view.task}"})


async def answer(who: Principal, model: str, prompt: str) -> str:
    if model == "nobody":
        raise ValueError("no model is called nobody; ask for assistant")
    return f"{model} to {who.id}: {prompt}"


async def healthy() -> dict[str, Any]:
    return {"nodes": [{"ip": "127.0.0.1", "alive": True}], "applications": {}}


class Place:
    """One state folder with two replicas of the server in front of it, each at an address of its own."""

    def __init__(self, state: Path) -> None:
        self.state, self.keys, self.office = state, Keys(state), Office()
        self.key = self.keys.create("app", ("infer", "agents"))
        self.first, self.second = "", ""

    async def replica(self, stack: AsyncExitStack) -> str:
        offer = Offer(self.state, mint_key(self.state), healthy, answer, self.office, Shelves())  # type: ignore[arg-type]
        app = serve(cluster_tools(offer), self.keys, McpSettings())
        return await stack.enter_async_context(listening(mounted(app)))


def mounted(app: ASGIApp) -> ASGIApp:
    """As Serve mounts it: the path stays whole, and `root_path` says which part of it is the mount's."""

    async def serving(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/mcp"}, receive, send)

    return serving


@pytest.fixture
async def place(state: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        here = Place(state)
        here.first, here.second = await here.replica(stack), await here.replica(stack)
        yield here


class Alternating(httpx2.AsyncHTTPTransport):
    """Sends one request to one replica and the next to the other, as HAProxy may."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self.addresses, self.asked = addresses, list[str]()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        address = httpx2.URL(self.addresses[len(self.asked) % len(self.addresses)])
        self.asked.append(str(address))
        request.url = request.url.copy_with(port=address.port)
        return await super().handle_async_request(request)


def connected(http: httpx2.AsyncClient, address: str, mode: str = "auto") -> Client:
    return Client(streamable_http_client(f"{address}/mcp", http_client=http), mode=mode)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def text(result: Any) -> str:
    return "".join(block.text for block in result.content)


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_clients_of_both_eras_list_and_call(place: Place, mode: str, version: str) -> None:
    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first, mode) as client:
        assert client.protocol_version == version
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == {"ask_model", "list_agents", "run_agent", "get_run", "search_memory"}
        result = await client.call_tool("ask_model", {"prompt": "Hello"})
        assert text(result) == "assistant to app: Hello"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_any_replica_answers_any_request(place: Place, mode: str) -> None:
    transport = Alternating(place.first, place.second)
    async with (
        httpx2.AsyncClient(headers=bearer(place.key), transport=transport) as http,
        connected(http, place.first, mode) as client,
    ):
        for number in range(4):
            found = await client.call_tool("search_memory", {"query": f"q{number}"})
            assert found.structured_content == {
                "result": [{"text": f"app asked for q{number}", "source": "notes", "score": 1.0}]
            }
    assert {place.first, place.second} == set(transport.asked)


async def test_agents_are_listed_with_what_they_are_for(place: Place) -> None:
    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first) as client:
        listed = (await client.call_tool("list_agents", {})).structured_content
    assert listed == {"result": [{"name": "clerk", "description": "Does what it is told."}]}


async def test_run_is_followed_to_its_end(place: Place) -> None:
    seen: list[str | None] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append(message)
        place.office.finish.set()

    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first) as client:
        ended = await client.call_tool("run_agent", {"agent": "clerk", "task": "file it"}, progress_callback=progress)
    assert seen == ["turn"]
    assert ended.structured_content is not None
    assert (ended.structured_content["state"], ended.structured_content["answer"]) == ("completed", "did file it")


async def test_run_that_takes_longer_is_asked_for_later(place: Place) -> None:
    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first) as client:
        order = {"agent": "clerk", "task": "wait", "run": "mine", "wait_s": 0.05}
        begun = await client.call_tool("run_agent", order)
        assert begun.structured_content is not None and begun.structured_content["state"] == "working"
        now = await client.call_tool("get_run", {"run": "mine"})
        assert now.structured_content is not None and now.structured_content["id"] == "mine"


async def test_run_of_another_principal_is_unknown(place: Place) -> None:
    other = place.keys.create("other", ("agents",))
    place.office.finish.set()
    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first) as client:
        await client.call_tool("run_agent", {"agent": "clerk", "task": "mine", "run": "mine"})
    async with httpx2.AsyncClient(headers=bearer(other)) as http, connected(http, place.first) as client:
        refused = await client.call_tool("get_run", {"run": "mine"})
    assert refused.is_error and "there is no such run of yours" in text(refused)


async def test_what_a_caller_can_mend_is_one_sentence_with_the_fix(place: Place) -> None:
    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first) as client:
        unknown = await client.call_tool("run_agent", {"agent": "nobody", "task": "x"})
        nobody = await client.call_tool("ask_model", {"prompt": "x", "model": "nobody"})
    assert unknown.is_error and text(unknown).endswith("there is no agent nobody; there are: clerk")
    assert nobody.is_error and text(nobody).endswith("no model is called nobody; ask for assistant")


async def test_status_is_for_admins(place: Place) -> None:
    entry = Decision(
        sequence=0,
        time=1.0,
        action="create",
        alias="assistant",
        version="assistant@0",
        base="seed",
        actor="up",
        reason="first",
    )
    (place.state / "rollout").mkdir()
    (place.state / "rollout" / "00000000.json").write_text(seal(entry, None).model_dump_json())
    admin = place.keys.create("boss", ("agents", "admin"))
    async with httpx2.AsyncClient(headers=bearer(admin)) as http, connected(http, place.first) as client:
        assert {"cluster_status", "rollout_status"} < {tool.name for tool in (await client.list_tools()).tools}
        rollout = (await client.call_tool("rollout_status", {})).structured_content
        cluster = (await client.call_tool("cluster_status", {})).structured_content
    assert rollout is not None and rollout["aliases"]["assistant"]["champion"] == "assistant@0"
    assert [decision["reason"] for decision in rollout["decisions"]] == ["first"]
    assert cluster == await healthy()
    async with httpx2.AsyncClient(headers=bearer(place.key)) as http, connected(http, place.first) as client:
        with pytest.raises(MCPError, match="rollout_status needs a key with the scope admin"):
            await client.call_tool("rollout_status", {})


def ping(**headers: str) -> dict[str, Any]:
    """A request of an older client, which needs no handshake before it."""
    accepted = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    return {"json": {"jsonrpc": "2.0", "id": 1, "method": "ping"}, "headers": {**accepted, **headers}}


async def test_no_key_is_401_that_says_how(place: Place) -> None:
    async with httpx.AsyncClient() as http:
        for headers in ({}, {"authorization": "Bearer sk-trivium-00000000-wrong"}, {"authorization": place.key}):
            refused = await http.post(f"{place.first}/mcp", **ping(**headers))
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith('Bearer error="invalid_token"')


async def test_key_without_the_scope_is_403_that_names_it(place: Place) -> None:
    key = place.keys.create("chat", ("infer",))
    async with httpx.AsyncClient() as http:
        refused = await http.post(f"{place.first}/mcp", **ping(**bearer(key)))
    assert refused.status_code == 403
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    assert "agents" in refused.headers["www-authenticate"]


async def test_revoked_key_is_refused_from_the_next_request_on(place: Place) -> None:
    async with httpx.AsyncClient() as http:
        assert (await http.post(f"{place.first}/mcp", **ping(**bearer(place.key)))).status_code == 200
        place.keys.revoke("app")
        assert (await http.post(f"{place.first}/mcp", **ping(**bearer(place.key)))).status_code == 401


async def test_names_and_pages_from_elsewhere_are_refused(place: Place) -> None:
    async with httpx.AsyncClient() as http:
        own = await http.post(f"{place.first}/mcp", **ping(**bearer(place.key), origin="http://localhost:3000"))
        host = await http.post(f"{place.first}/mcp", **ping(**bearer(place.key), host="evil.example"))
        origin = await http.post(f"{place.first}/mcp", **ping(**bearer(place.key), origin="http://evil.example"))
        sly = await http.post(f"{place.first}/mcp", **ping(**bearer(place.key), origin="http://localhost.evil.example"))
    assert [own.status_code, host.status_code, origin.status_code, sly.status_code] == [200, 421, 403, 403]


async def test_body_beyond_the_bound_is_refused(place: Place) -> None:
    async with httpx.AsyncClient() as http:
        request = ping(**bearer(place.key))
        request["content"] = json.dumps({**request.pop("json"), "params": {"x": "y" * (1 << 20)}})
        refused = await http.post(f"{place.first}/mcp", **request)
    assert refused.status_code == 413
