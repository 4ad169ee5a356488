"""The Serve application `agents`: one `Pool` of runs in each replica, REST in front of it.

`build` is where its parts come together. A replica that dies leaves its runs to the others, or to the one that Serve
starts in its place; they reach each other by Serve's broadcast.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from ray import serve
from starlette.routing import Router
from starlette.types import ASGIApp

from cluster import auth
from cluster.auth import Keys, Principal
from cluster.log import Log
from cluster.records import Step
from cluster.settings import Settings
from services.agents import a2a_server
from services.agents.contract import Agent
from services.agents.elsewhere import DEPLOYMENT
from services.agents.memory.boards import RayBoards
from services.agents.memory.passages import Memory, Passage
from services.agents.memory.remember import memories, remember
from services.agents.memory.share import Root, share_memory, tree_of
from services.agents.model import Deployment
from services.agents.own import LOOK_S, WAIT_S
from services.agents.permits import Permits
from services.agents.policy import Policy
from services.agents.push import Courier, Subscriptions
from services.agents.rest import rest
from services.agents.run import Pool
from services.agents.settings import AgentsSettings
from services.agents.toolbox.build import build as build_tools
from services.agents.toolbox.mcp_tools import McpTools
from services.agents.tools import Caller, Toolbox

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What agents work with."""

    tools: Toolbox
    permits: Permits
    memory: Memory | None = None
    servers: McpTools | None = None
    """Whose tools are there once an operator has consented to them."""

    def offered(self) -> Toolbox:
        """All tools that there are now."""
        mine = list(self.tools)
        theirs = self.servers.tools({tool.name for tool in mine}) if self.servers else []
        return Toolbox([*mine, *theirs])


async def build(settings: AgentsSettings, root: Root) -> Parts:
    """The parts of a replica, from its settings. `root`: which run the others of a tree come from."""
    here = Settings.from_environment()
    key = auth.first_key(here.state)
    memory = memories(settings.memory, here, key)
    tools = await build_tools(settings.tools, state=here.state, memory=memory)
    tools.add(remember(memory))
    tools.add(share_memory(RayBoards(settings.memory.board), root))
    return Parts(tools, Policy(settings.policy), memory, McpTools(settings.tools.mcp, here.state))


Build = Callable[[AgentsSettings, Root], Awaitable[Parts]]


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
        keys = Keys(here.state)
        self._parts = await self._build(settings, self._root)
        self._model = Deployment(here.base_url.removesuffix("/v1"), auth.mint_key(here.state), settings.token_ids)
        offered = await asyncio.to_thread(self._parts.offered)
        self._pool = Pool(
            here.state,
            settings.agents,
            offered,
            self._parts.permits,
            self._model,
            keys.named,
            log=Log.shared(here),
            peers=Broadcast(),
            most=settings.most_runs,
        )
        await self._pool.open()
        subscriptions = Subscriptions(here.state, settings.a2a.push)
        courier = Courier(self._pool, subscriptions, settings.a2a.push)
        self._tasks = [asyncio.create_task(each) for each in (courier.serve(), self._follow_consents(offered))]
        # A2A has doors of its own: a card is for everybody, and errors are in its own words.
        router = Router(
            a2a_server.routes(settings.agents, self._pool, keys, subscriptions, settings.a2a), redirect_slashes=False
        )
        router.default = rest(self._pool)
        # What is there by now stays: the collector, which stops all runs meanwhile, need not look at it again.
        gc.collect()
        gc.freeze()
        return router

    async def _follow_consents(self, offered: Toolbox) -> None:
        """Give agents what an operator has consented to since, and take from them what is no more."""
        known = [tool.version for tool in offered]
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                offered = await asyncio.to_thread(self._parts.offered)
                versions = [tool.version for tool in offered]
                if versions != known:
                    self._pool.equip(offered)
                    known = versions
            except Exception:  # a disk that is away, a name that two have: looked at again
                logger.exception("the tools of MCP servers could not be looked at")

    async def _root(self, caller: Caller) -> str:
        return await tree_of(self._pool)(caller)

    async def peer(self, method: str, *arguments: Any) -> Any:
        """What the other replicas ask this one."""
        return await self._pool.peer(method, *arguments)

    async def call(
        self, method: Literal["start", "get", "list", "say", "approve", "cancel", "reward"], *given: Any, **more: Any
    ) -> Any:
        """What other applications of the cluster want of the runs (`elsewhere.py`)."""
        return await getattr(self._pool, method)(*given, **more)

    async def followed(self, who: Principal, run: str, since: int) -> AsyncIterator[Step]:
        async for step in self._pool.follow(who, run, since):
            yield step

    async def agents(self) -> dict[str, Agent]:
        return await self._pool.agents()

    async def search(self, principal: str, query: str, count: int) -> list[Passage]:
        return await self._parts.memory.search(principal, query, count) if self._parts.memory else []

    async def check_health(self) -> None:
        """Raises if another replica has taken over what this one had: Serve then replaces it."""
        if self._pool.own.lost:
            raise RuntimeError("another replica has this one's runs")

    async def __del__(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._pool.close()
        await self._model.close()
        if self._parts.servers:
            await self._parts.servers.close()


def application(settings: AgentsSettings, build: Build) -> serve.Application:
    """The application with parts of somebody's choice."""
    deployment: Any = serve.deployment(
        serve.ingress()(Agents),
        name=DEPLOYMENT,
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
