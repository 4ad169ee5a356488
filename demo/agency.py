"""The shop's owner: has the agent do jobs, over HTTP, looks into the books, and tells what each run was worth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from demo.client import owner, side_by_side
from demo.jobs import Job, succeeded
from demo.shop import Shop

AGENT = "clerk"


@dataclass(frozen=True)
class Run:
    """What became of one job."""

    job: Job
    at_s: float
    """When it was over, in seconds of `time.monotonic()`."""
    latency_s: float
    id: str | None = None
    state: str | None = None
    turns: int = 0
    success: bool = False
    version: str | None = None
    """That wrote its last turn."""
    error: str | None = None
    """What kept it from being done at all, or from being judged."""


class Agency:
    """A client of the agents, with the owner's key: only who runs the cluster may judge as a checker."""

    def __init__(self, base_url: str, api_key: str, shop: Shop) -> None:
        self._client = owner(base_url, api_key, timeout_s=180)
        self._shop = shop

    async def work(self, jobs: list[Job], reward: bool, seen: Callable[[Run], None]) -> list[Run]:
        """The agent does `jobs`; runs in their order. Those without a `reward` are never learnt from."""

        async def one(job: Job) -> Run:
            run = await self._do(job, reward)
            seen(run)
            return run

        return await side_by_side(jobs, one)

    async def close(self) -> None:
        await self._client.aclose()

    async def _do(self, job: Job, reward: bool) -> Run:
        begun = time.monotonic()
        try:
            # Runs of one template are all learnt from, or all held out.
            order = {"input": job.text, "metadata": {"task_template": job.template.name}}
            view = await self._answer("POST", f"/agents/{AGENT}/runs", order)
            version = None
            async with self._client.stream("GET", f"/agents/runs/{view['id']}/events") as events:
                async for line in events.aiter_lines():
                    if line.startswith("data: ") and (step := json.loads(line[6:]))["event"] == "model":
                        version = step["body"]["version"]
            view = await self._answer("GET", f"/agents/runs/{view['id']}")
            success = succeeded(job, self._shop)
            if reward:
                judged = {"score": float(success), "source": "checker", "comment": "the shop's books"}
                await self._answer("POST", f"/agents/runs/{view['id']}/reward", judged)
        except (httpx.HTTPError, ValueError) as error:
            return Run(job, time.monotonic(), time.monotonic() - begun, error=f"{type(error).__name__}: {error}")
        took = time.monotonic() - begun
        return Run(job, time.monotonic(), took, view["id"], view["state"], view["turns"], success, version)

    async def _answer(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        response = await self._client.request(method, path, json=body)
        if response.is_error:
            raise ValueError(f"{method} {path} answered {response.status_code}: {response.text[:200]}")
        return response.json()
