"""The cluster's runs as its other applications reach them: over the public port, on behalf of whoever asks.

The application `agents` has the runs, and `/mcp` is another: what REST answers at `/agents` is the contract's again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from cluster.auth import Principal
from cluster.records import Step
from services.agents.contract import Agent, RunLimits, View

PATIENCE_S = 60.0
"""Longest for one answer; a stream says something each quarter of a minute."""


class Afar:
    """`contract.Runs`, by HTTP."""

    def __init__(self, address: str, behalf: Callable[[Principal], Mapping[str, str]]) -> None:
        """`behalf` gives the header fields by which a request of this cluster's own speaks for somebody."""
        # HAProxy ends idle connections when an application comes or goes: none is kept.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=f"{address}/agents", timeout=PATIENCE_S, limits=limits, trust_env=False)
        self._behalf = behalf
        self._agents: dict[str, Agent] = {}

    async def look(self, who: Principal) -> dict[str, Agent]:
        """Who there is now; `agents` has what was seen last."""
        told = (await self._ask("GET", "/", who))["agents"]
        self._agents = {name: Agent.model_validate(agent) for name, agent in told.items()}
        return self._agents

    def agents(self) -> dict[str, Agent]:
        return self._agents

    async def start(
        self,
        who: Principal,
        agent: str,
        task: str,
        *,
        thread: str | None = None,
        parent: str | None = None,
        limits: RunLimits | None = None,
        run: str | None = None,
    ) -> View:
        if parent is not None:
            raise ValueError("only a run itself can spawn another; leave parent out")
        order = {"input": task, "thread": thread, "limits": limits and limits.model_dump(), "id": run}
        given = {name: value for name, value in order.items() if value is not None}
        return View.model_validate(await self._ask("POST", f"/{_part(agent)}/runs", who, given))

    async def get(self, who: Principal, run: str) -> View:
        return View.model_validate(await self._ask("GET", f"/runs/{_part(run)}", who))

    async def list(self, who: Principal, agent: str | None = None, limit: int = 100) -> list[View]:
        query = httpx.QueryParams({"limit": limit, **({"agent": agent} if agent else {})})
        return [View.model_validate(each) for each in (await self._ask("GET", f"/runs?{query}", who))["runs"]]

    async def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        path = f"/runs/{_part(run)}/events?since={since}"
        async with self._http.stream("GET", path, headers=self._behalf(who)) as answer:
            if not answer.is_success:
                await answer.aread()
                raise _problem(answer)
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield Step.model_validate_json(line.removeprefix("data:"))

    async def say(self, who: Principal, run: str, text: str) -> View:
        return View.model_validate(await self._ask("POST", f"/runs/{_part(run)}/input", who, {"text": text}))

    async def approve(self, who: Principal, run: str, approved: bool, result: str | None = None) -> View:
        answer = {"approved": approved, **({"result": result} if result is not None else {})}
        return View.model_validate(await self._ask("POST", f"/runs/{_part(run)}/approve", who, answer))

    async def cancel(self, who: Principal, run: str) -> View:
        return View.model_validate(await self._ask("POST", f"/runs/{_part(run)}/cancel", who, {}))

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, who: Principal, body: dict[str, Any] | None = None) -> Any:
        answer = await self._http.request(method, path, json=body, headers=self._behalf(who))
        if not answer.is_success:
            raise _problem(answer)
        return answer.json()


def _part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="")


def _problem(answer: httpx.Response) -> Exception:
    """What the contract raises for an answer that is none."""
    try:
        message = str(json.loads(answer.content)["error"]["message"])
    except (ValueError, KeyError, TypeError):  # Serve's own words, while no replica answers
        return ValueError(f"the agents answered {answer.status_code}; try again shortly")
    return KeyError(message) if answer.status_code == 404 else ValueError(message)
