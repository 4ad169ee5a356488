"""The cluster's own tools, as an MCP server offers them: ask a model, run an agent, search memory, see how all is.

What a tool asks comes from outside (`Offer`), by the words of `contract.py` and two more protocols; what a cluster does
not have is not offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.request_state import RequestStateSecurity
from mcp_types import ToolAnnotations
from pydantic import Field

from cluster.auth import Principal
from cluster.decisions import fold, read
from cluster.records import Frozen
from services.agents.contract import Agent, Runs, View
from services.agents.mcp_server import Scopes, caller

MOST_WAIT_S = 300.0
INSTRUCTIONS = """Tools of a Trivium cluster: its models, its agents, their memory, and how the cluster is.
An agent's run goes on when a call ends before it does: `get_run` says what became of it."""

_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


class Ask(Protocol):
    """A model of the cluster, asked for somebody: their limits hold, and the record is theirs."""

    async def __call__(self, who: Principal, model: str, prompt: str) -> str:
        """The answer's text. Raises `ValueError` with one sentence for the caller."""
        ...


@runtime_checkable
class Elsewhere(Protocol):
    """Runs of another application (`afar.py`), which must be asked who there is."""

    async def look(self, who: Principal) -> Mapping[str, Agent]: ...


class Passage(Protocol):
    """A piece of text that somebody once stored."""

    @property
    def text(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def score(self) -> float: ...


class Memory(Protocol):
    """Passages by principal: nobody finds another's."""

    async def search(self, principal: str, query: str, count: int) -> Sequence[Passage]: ...


@dataclass(frozen=True)
class Offer:
    """What there is to offer."""

    state: Path
    """Folder with the decision log."""
    secret: bytes
    """The cluster's, at least 32 bytes: what a replica seals for a client to bring back, another can open."""
    status: Callable[[], Awaitable[dict[str, Any]]]
    """Nodes and applications, and how they are."""
    ask: Ask | None = None
    runs: Runs | None = None
    memory: Memory | None = None


class Found(Frozen):
    """One passage that a search found."""

    text: str
    source: str
    score: float
    """Comparable within one answer only."""


class AgentFacts(Frozen):
    """One agent that can be run."""

    name: str
    description: str


def cluster_tools(offer: Offer) -> MCPServer[Any]:
    """A server of these tools."""
    server: MCPServer[Any] = MCPServer(
        "trivium",
        title="Trivium",
        instructions=INSTRUCTIONS,
        version=version("trivium"),
        log_level="WARNING",
        request_state_security=RequestStateSecurity(keys=[offer.secret]),
        subscriptions=False,  # the list of tools never changes while a replica lives
        middleware=[Scopes({"cluster_status": "admin", "rollout_status": "admin"})],
    )
    _status(server, offer)
    if offer.ask is not None:
        _asking(server, offer.ask)
    if offer.runs is not None:
        _running(server, offer.runs)
    if offer.memory is not None:
        _remembering(server, offer.memory)
    return server


def _asking(server: MCPServer[Any], ask: Ask) -> None:
    @server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    async def ask_model(
        context: Context,
        prompt: Annotated[str, Field(description="What to ask, as a user would write it.")],
        model: Annotated[str, Field(description="An alias, such as `assistant`, or a version.")] = "assistant",
    ) -> str:
        """Ask one of the cluster's models, once, without tools."""
        with _sentences():
            return await ask(caller(context.request_context), model, prompt)


def _running(server: MCPServer[Any], runs: Runs) -> None:
    @server.tool(annotations=_READS)
    async def list_agents(context: Context) -> list[AgentFacts]:
        """The agents that can be run, and what each is for."""
        with _sentences():
            who = caller(context.request_context)
            agents = await runs.look(who) if isinstance(runs, Elsewhere) else runs.agents()
        return [AgentFacts(name=name, description=agent.description) for name, agent in agents.items()]

    @server.tool(annotations=ToolAnnotations(read_only_hint=False))
    async def run_agent(
        context: Context,
        agent: Annotated[str, Field(description="Its name; `list_agents` has them.")],
        task: Annotated[str, Field(description="What it is to do, in words.")],
        thread: Annotated[str | None, Field(description="Runs of one thread remember each other.")] = None,
        run: Annotated[str | None, Field(description="An id of your own: given again, it is the same run.")] = None,
        wait_s: Annotated[float, Field(ge=0, le=MOST_WAIT_S, description="Longest to wait for its end.")] = 30.0,
    ) -> View:
        """Have an agent do something. Returns when it has ended, when it needs a person, or after `wait_s`."""
        who = caller(context.request_context)
        with _sentences():
            begun = await runs.start(who, agent, task, thread=thread, run=run)
            with anyio.move_on_after(wait_s):
                async for step in runs.follow(who, begun.id):
                    await context.report_progress(step.number + 1, message=step.event)
            return await runs.get(who, begun.id)

    @server.tool(annotations=_READS)
    async def get_run(context: Context, run: Annotated[str, Field(description="Its id.")]) -> View:
        """What became of an agent's run: its state, its answer, or what it asks."""
        with _sentences():
            return await runs.get(caller(context.request_context), run)


def _remembering(server: MCPServer[Any], memory: Memory) -> None:
    @server.tool(annotations=_READS)
    async def search_memory(
        context: Context,
        query: Annotated[str, Field(description="What to look for, in words.")],
        count: Annotated[int, Field(ge=1, le=50, description="How many passages at most.")] = 5,
    ) -> list[Found]:
        """Search what your agents have remembered, best first."""
        with _sentences():
            passages = await memory.search(caller(context.request_context).id, query, count)
        return [Found(text=each.text, source=each.source, score=each.score) for each in passages]


def _status(server: MCPServer[Any], offer: Offer) -> None:
    @server.tool(annotations=_READS)
    async def cluster_status() -> dict[str, Any]:
        """The machines of the cluster, its applications, and how they are."""
        return await offer.status()

    @server.tool(annotations=_READS)
    async def rollout_status(
        last: Annotated[int, Field(ge=0, le=100, description="How many decisions to show, newest first.")] = 10,
    ) -> dict[str, Any]:
        """Which version each alias serves, what is staged or in a canary, and the last decisions with their reasons."""
        decisions = await asyncio.to_thread(read, offer.state)
        aliases = fold(decisions).aliases.values()
        shown = {"sequence", "time", "action", "alias", "version", "actor", "reason"}
        return {
            "aliases": {
                alias.name: {
                    "champion": alias.champion,
                    "former": alias.history[-1] if alias.history else None,
                    "staged": alias.staged,
                    "canary": alias.canary and {"share": alias.canary.share, "shadow": alias.canary.shadow},
                }
                for alias in aliases
            },
            "decisions": [each.model_dump(include=shown) for each in decisions[::-1][:last]],
        }


@contextmanager
def _sentences() -> Iterator[None]:
    """What the contract raises for callers becomes a failed tool with that sentence; anything else is a defect."""
    try:
        yield
    except KeyError:
        raise ToolError("there is no such run of yours; `run_agent` returns the ids of new ones") from None
    except ValueError as error:
        raise ToolError(str(error)) from None
