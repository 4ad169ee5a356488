"""Runs as others see them: the terminal, REST, MCP, A2A and sub-agents all reach them by these few words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Literal, Protocol, TypedDict, Unpack

from cluster.auth import Principal
from cluster.records import Frozen, Step
from cluster.settings import Strict

State = Literal["submitted", "working", "input-required", "completed", "failed", "canceled", "rejected"]
"""A2A's words for the states of a task."""
ENDED: frozenset[str] = frozenset({"completed", "failed", "canceled", "rejected"})


class Busy(RuntimeError):
    """Not now, try again shortly. One sentence."""


class RunLimits(Strict):
    """Where a run ends by itself. A sub-agent's come out of its parent's."""

    turns: int = 16
    """Of the model."""
    tokens: int = 32_768
    """Prompt and completion of all turns together."""
    seconds: float = 600.0
    """At work: waiting for a person does not count."""
    repairs: int = 2
    """How often in a row a call that does not fit its schema goes back to the model."""
    children: int = 4
    """Sub-agents at once."""


class Agent(Strict):
    """One agent, as `services/serve.yaml` describes it."""

    description: str
    """For people and for other agents: its A2A card says so."""
    model: str = "assistant"
    """Alias, version or base that thinks for it."""
    instructions: str = ""
    """The system message."""
    tools: tuple[str, ...] = ()
    """Names; `mcp:shop/*` is all that one owner has."""
    limits: RunLimits = RunLimits()
    temperature: float = 0.0
    max_tokens: int = 512
    """Of one turn."""


class View(Frozen):
    """A run as others see it."""

    id: str
    agent: str
    principal: str
    thread: str
    """Session in the log; runs of one thread remember each other."""
    parent: str | None = None
    """Run that spawned it."""
    state: State
    task: str
    answer: str | None = None
    question: str | None = None
    """What a person is asked, where input is required."""
    wants: Literal["words", "approval"] | None = None
    """How that is answered: by `say`, or by `approve`."""
    operation: str | None = None
    """The call that the question is about, if it is about one."""
    reason: str | None = None
    """Why it ended as it did."""
    created: float
    updated: float
    turns: int = 0
    tokens: int = 0


class Order(TypedDict, total=False):
    """What may be said of a run besides its task; None is as if it were not said."""

    thread: str | None
    """A conversation that it goes on with."""
    parent: str | None
    """Run that spawns it."""
    limits: RunLimits | None
    """At most the agent's own, which hold without any."""
    run: str | None
    """An id of the caller's choice: given again, the same run."""
    metadata: Mapping[str, str] | None
    """The caller's own. Of tasks with one `task_template` in it, all are trained on or none."""


class Runs(Protocol):
    """The runs of a cluster, from any of its replicas. A run of another principal is unknown (`KeyError`), unless the
    asker has the scope `admin`. `ValueError` has one sentence with the fix; `Busy` passes by itself."""

    async def agents(self) -> dict[str, Agent]: ...

    async def start(self, who: Principal, agent: str, task: str, **order: Unpack[Order]) -> View:
        """Returns once the run is in the log."""
        ...

    async def get(self, who: Principal, run: str) -> View: ...

    async def list(self, who: Principal, agent: str | None = None, limit: int = 100) -> list[View]:
        """Newest first."""
        ...

    def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        """Its journal from entry `since` on, until it ends or wants input."""
        ...

    async def say(self, who: Principal, run: str, text: str) -> View:
        """What a person answers to a run that asked."""
        ...

    async def approve(self, who: Principal, run: str, approved: bool, result: str | None = None) -> View:
        """Whether the call in question may be made. After a crash in the middle of one: `result` is what it came to."""
        ...

    async def cancel(self, who: Principal, run: str) -> View: ...

    async def reward(
        self, who: Principal, run: str, score: float, source: str = "user", comment: str | None = None
    ) -> View:
        """How good it was, 0 to 1, and who says so: environment, checker, user, judge."""
        ...
