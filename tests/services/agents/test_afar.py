"""Runs of another application, over HTTP: what its REST answers is the contract's again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from cluster.admin import error
from cluster.auth import Principal
from cluster.records import Step
from services.agents.afar import Afar
from services.agents.contract import Agent, RunLimits, View
from services.agents.mcp_offer import Elsewhere
from tests.services.agents.loopback import listening

WHO = Principal("app", ("agents",))
VIEW = View(id="r/1", agent="clerk", principal="app", thread="t", state="working", task="file", created=1, updated=1)
STEPS = [
    Step(
        request_id=f"r/1/{number}",
        time=1.0,
        principal="app",
        session="t",
        run="r/1",
        number=number,
        agent="clerk",
        source="test",
        event="turn",
    )
    for number in range(3)
]


def desk(asked: list[tuple[str, Any]]) -> FastAPI:
    """As /agents answers."""
    api = FastAPI()

    @api.middleware("http")
    async def known(request: Request, go_on: Any) -> Any:
        if request.headers.get("x-behalf") != "app":
            return error(401, "no valid API key")
        return await go_on(request)

    @api.get("/agents/")
    async def agents() -> Any:
        return {"agents": {"clerk": Agent(description="Files.").model_dump()}}

    @api.post("/agents/{agent}/runs")
    async def start(agent: str, order: dict[str, Any]) -> Any:
        asked.append((agent, order))
        return VIEW if agent == "clerk" else error(409, f"there is no agent {agent}; there are: clerk")

    @api.get("/agents/runs/{run}/events")
    async def events(run: str, since: int) -> Any:
        lines = "".join(f"id: {s.number}\ndata: {s.model_dump_json()}\n\n" for s in STEPS[since:])
        return StreamingResponse(iter([": alive\n\n", lines]), media_type="text/event-stream")

    @api.post("/agents/runs/{run}/{action}")
    async def act(run: str, action: str, body: dict[str, Any]) -> Any:
        asked.append((action, body))
        return VIEW

    @api.get("/agents/runs/{run:path}")
    async def one(run: str) -> Any:
        return VIEW if run == "r/1" else error(404, f"there is no run {run}")

    @api.get("/agents/runs")
    async def several(limit: int, agent: str) -> JSONResponse:
        return JSONResponse({"runs": [VIEW.model_dump() | {"agent": agent}] * limit})

    return api


@pytest.fixture
async def asked() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
async def afar(asked: list[tuple[str, Any]]) -> AsyncIterator[Afar]:
    async with listening(desk(asked)) as address:
        runs = Afar(address, lambda who: {"x-behalf": who.id})
        yield runs
        await runs.close()


async def test_run_is_started_followed_and_answered(afar: Afar, asked: list[tuple[str, Any]]) -> None:
    assert await afar.start(WHO, "clerk", "file", run="r/1", limits=RunLimits(turns=2)) == VIEW
    assert await afar.get(WHO, "r/1") == VIEW
    assert [view.agent for view in await afar.list(WHO, "clerk", 2)] == ["clerk", "clerk"]
    await afar.say(WHO, "r1", "yes")
    await afar.approve(WHO, "r1", False)
    await afar.cancel(WHO, "r1")
    limits = RunLimits(turns=2).model_dump()
    assert asked == [
        ("clerk", {"input": "file", "id": "r/1", "limits": limits}),
        ("input", {"text": "yes"}),
        ("approve", {"approved": False}),
        ("cancel", {}),
    ]


async def test_journal_is_followed_from_where_one_was(afar: Afar) -> None:
    assert [step async for step in afar.follow(WHO, "r1", 1)] == STEPS[1:]


async def test_agents_are_those_that_were_seen_last(afar: Afar) -> None:
    assert isinstance(afar, Elsewhere) and afar.agents() == {}
    assert set(await afar.look(WHO)) == set(afar.agents()) == {"clerk"}


async def test_refusals_are_the_contracts(afar: Afar) -> None:
    with pytest.raises(KeyError, match="there is no run other"):
        await afar.get(WHO, "other")
    with pytest.raises(ValueError, match="there is no agent nobody; there are: clerk"):
        await afar.start(WHO, "nobody", "file")
    with pytest.raises(ValueError, match="no valid API key"):
        await afar.get(Principal("stranger"), "r/1")
