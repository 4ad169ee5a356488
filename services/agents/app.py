"""The Serve application `agents`: one `Pool` of runs in each replica, REST in front of it.

`build` is where its parts come together. A replica that dies leaves its runs to the others, or to the one that Serve
starts in its place; they reach each other by Serve's broadcast.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.types import ASGIApp

from cluster import auth
from cluster.auth import Keys
from cluster.log import Log
from cluster.settings import Settings
from services.agents.contract import Runs
from services.agents.model import Deployment
from services.agents.own import WAIT_S
from services.agents.permits import Ask, Decision, Permits
from services.agents.rest import rest
from services.agents.run import Pool
from services.agents.settings import AgentsSettings
from services.agents.tools import Toolbox

logger = logging.getLogger(__name__)

NAME = "agents"
"""Of the deployment."""


class NothingPermitted:
    """The policy where there is none: every call is denied."""

    def decide(self, ask: Ask) -> Decision:
        return Decision("deny", (), "no policy permits it")


@dataclass(frozen=True)
class Parts:
    """What agents work with."""

    tools: Toolbox
    permits: Permits
    mounts: Sequence[Callable[[FastAPI, Runs], None]] = ()
    """Each adds routes of its own below /agents."""
    closing: Sequence[Callable[[], Awaitable[None]]] = field(default=())
    """What is to be done when the replica leaves."""


async def build(settings: AgentsSettings) -> Parts:
    """The parts of a replica, from its settings."""
    return Parts(Toolbox(), NothingPermitted())


Build = Callable[[AgentsSettings], Awaitable[Parts]]


class Broadcast:
    """The replicas of this deployment."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def ask(self, method: str, *arguments: Any) -> list[Any]:
        try:
            if self._handle is None:
                here = serve.get_replica_context()
                # The look-up blocks; the broadcast must not leave the loop that first uses the handle.
                self._handle = await asyncio.to_thread(serve.get_deployment_handle, here.deployment, here.app_name)
            answers = await self._handle.broadcast("peer", method, *arguments).results_async(
                timeout_s=WAIT_S + 5, return_exceptions=True
            )
        except Exception as error:  # a replica goes or comes: whoever asks goes by the log, and asks again
            logger.warning("the other replicas could not be asked: %r", error)
            self._handle = None
            return []
        # A `ValueError` is what a replica answers; anything else is how the question failed.
        return [each for each in answers if isinstance(each, ValueError) or not isinstance(each, BaseException)]


class Agents:
    """One replica."""

    def __init__(self, settings: AgentsSettings, build: Build) -> None:
        self._settings, self._build = settings, build

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        here, settings = Settings.from_environment(), self._settings
        self._parts = await self._build(settings)
        self._model = Deployment(here.base_url.removesuffix("/v1"), auth.mint_key(here.state), settings.token_ids)
        self._pool = Pool(
            here.state,
            settings.agents,
            self._parts.tools,
            self._parts.permits,
            self._model,
            Keys(here.state).named,
            log=Log.shared(here),
            peers=Broadcast(),
            most=settings.most_runs,
        )
        await self._pool.open()
        # What is there by now stays: the collector, which stops all runs meanwhile, need not look at it again.
        gc.collect()
        gc.freeze()
        return rest(self._pool, self._parts.mounts)

    async def peer(self, method: str, *arguments: Any) -> Any:
        """What the other replicas ask this one."""
        return await self._pool.peer(method, *arguments)

    async def check_health(self) -> None:
        """Raises if another replica has taken over what this one had: Serve then replaces it."""
        if self._pool.own.lost:
            raise RuntimeError("another replica has this one's runs")

    async def __del__(self) -> None:
        await self._pool.close()
        await self._model.close()
        for close in self._parts.closing:
            await close()


def application(settings: AgentsSettings, build: Build) -> serve.Application:
    """The application with parts of somebody's choice."""
    deployment: Any = serve.deployment(
        serve.ingress()(Agents),
        name=NAME,
        # Followers and questions of other replicas count too, and cost nothing while they wait.
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=1,
    )
    return deployment.bind(settings, build)


def app(settings: AgentsSettings) -> serve.Application:
    """What `services/serve.yaml` names; `args` there are the settings."""
    return application(settings, build)


# Serve looks at the class itself to parse `args`; postponed annotations are only its name.
app.__annotations__["settings"] = AgentsSettings
