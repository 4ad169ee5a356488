"""REST at /agents: what the command line uses, and whoever speaks neither MCP nor A2A."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from cluster.admin import error, keyed_api
from cluster.records import Step
from cluster.settings import Strict
from services.agents.contract import Busy, RunLimits, Runs, View

MOST_CHARACTERS = 200_000
"""Of a task; what is longer belongs into something that a tool can read."""
ALIVE_S = 15.0
"""How often a follower hears that the connection lives."""

Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class NewRun(Strict):
    """Body of a request for a run."""

    input: Text
    thread: Name | None = None
    """A conversation: its runs remember each other."""
    limits: RunLimits | None = None
    """At most the agent's own."""
    id: Name | None = None
    """Of the caller's choice: given again, the same run (as the header `x-idempotency` does)."""
    metadata: Annotated[dict[Name, Annotated[str, Field(max_length=512)]], Field(max_length=16)] = {}
    """As OpenAI's API takes it. Of tasks with one `task_template`, all are trained on or none."""


class Approval(Strict):
    """Body of the answer to a yes-or-no question."""

    approved: bool = True
    result: Annotated[str, Field(max_length=MOST_CHARACTERS)] | None = None
    """What a call came to whose result was lost in a crash."""


class Words(Strict):
    """Body of the answer to a question in words."""

    text: Text


class Reward(Strict):
    """Body of a judgement on a run."""

    score: Annotated[float, Field(ge=0, le=1)]
    source: Name = "user"
    comment: Annotated[str, Field(max_length=MOST_CHARACTERS)] | None = None


def rest(runs: Runs) -> FastAPI:
    """The application, for keys with the scope `agents`."""
    api = keyed_api("agents")
    api.add_exception_handler(KeyError, _missing)
    api.add_exception_handler(Busy, _busy)

    @api.get("/")
    async def agents() -> dict[str, Any]:
        """Who there is."""
        told = {"description", "model", "tools", "limits"}
        return {"agents": {name: agent.model_dump(include=told) for name, agent in (await runs.agents()).items()}}

    @api.get("/runs")
    async def several(
        request: Request, agent: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> dict[str, list[View]]:
        return {"runs": await runs.list(request.state.who, agent, limit)}

    @api.get("/runs/{run}")
    async def one(run: str, request: Request) -> View:
        return await runs.get(request.state.who, run)

    @api.get("/runs/{run}/events")
    async def events(
        run: str,
        request: Request,
        since: Annotated[int, Query(ge=0)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """The journal as server-sent events, until the run ends or wants input; each one's id is its number."""
        if last_event_id is not None:
            if not last_event_id.isdecimal():
                raise ValueError("Last-Event-ID must be the number of the last event that was seen")
            since = int(last_event_id) + 1
        await runs.get(request.state.who, run)  # 404 before the stream begins
        stream = _kept_alive(runs.follow(request.state.who, run, since))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @api.post("/{agent}/runs", status_code=201)
    async def start(
        agent: str, order: NewRun, request: Request, x_idempotency: Annotated[str | None, Header(max_length=256)] = None
    ) -> View:
        who, given = request.state.who, order.id or x_idempotency
        return await runs.start(
            who, agent, order.input, thread=order.thread, limits=order.limits, run=given, metadata=order.metadata
        )

    @api.post("/runs/{run}/cancel")
    async def cancel(run: str, request: Request) -> View:
        return await runs.cancel(request.state.who, run)

    @api.post("/runs/{run}/approve")
    async def approve(run: str, approval: Approval, request: Request) -> View:
        return await runs.approve(request.state.who, run, approval.approved, approval.result)

    @api.post("/runs/{run}/input")
    async def say(run: str, words: Words, request: Request) -> View:
        return await runs.say(request.state.who, run, words.text)

    @api.post("/runs/{run}/reward")
    async def reward(run: str, given: Reward, request: Request) -> View:
        who = request.state.who
        if given.source != "user" and "admin" not in who.scopes:
            # Training believes a checker more than a user.
            raise HTTPException(403, f"only a key with the scope admin may judge as {given.source}")
        return await runs.reward(who, run, given.score, given.source, given.comment)

    return api


async def _kept_alive(steps: AsyncIterator[Step]) -> AsyncIterator[bytes]:
    """Steps as server-sent events, and a comment where none comes for a while."""
    following = asyncio.ensure_future(anext(steps, None))
    try:
        while True:
            done, _ = await asyncio.wait([following], timeout=ALIVE_S)
            if not done:
                yield b": alive\n\n"
                continue
            step = following.result()
            if step is None:
                return
            yield f"id: {step.number}\nevent: {step.event}\ndata: {step.model_dump_json()}\n\n".encode()
            following = asyncio.ensure_future(anext(steps, None))
    finally:
        following.cancel()


async def _missing(request: Request, problem: Any) -> Any:
    return error(404, str(problem.args[0]) if problem.args else "not found", "not_found")


async def _busy(request: Request, problem: Any) -> Any:
    answer = error(503, str(problem), "overloaded")
    answer.headers["retry-after"] = "1"
    return answer
