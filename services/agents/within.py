"""Tools that stay within the cluster: to ask a person, and to have another agent do a part of the work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cluster.auth import Principal
from services.agents.contract import Agent, Busy, RunLimits, View
from services.agents.journal import Progress
from services.agents.loop import Wanted
from services.agents.tools import Invocation, Result, Tool, ToolError

if TYPE_CHECKING:
    from services.agents.run import Pool

LEAST_TOKENS = 256
"""Below this a sub-agent could not even read its task."""


def within(pool: Pool, agents: dict[str, Agent]) -> list[Tool]:
    """`ask_person`, and `spawn_NAME` for each agent."""
    return [_ask_person(), *(_spawn(pool, name, agent) for name, agent in agents.items())]


def _ask_person() -> Tool:
    async def ask(invocation: Invocation) -> Result:
        raise Wanted(str(invocation.arguments["question"]))

    return Tool(
        name="ask_person",
        description="Ask the person that you work for a question, and wait for the answer, which may take long.",
        schema=_one("question", "What you need to know, in one or two sentences."),
        run=ask,
        owner="builtin",
        idempotent=True,
    )


def _spawn(pool: Pool, name: str, agent: Agent) -> Tool:
    async def spawn(invocation: Invocation) -> Result:
        return await _delegate(pool, name, invocation)

    return Tool(
        name=f"spawn_{name}",
        description=f"Have the agent {name} do a task and tell its answer. {agent.description}",
        schema=_one("task", "All that it needs to know: it sees nothing else of this conversation."),
        run=spawn,
        owner=f"agent:{name}",
        idempotent=True,  # the operation is the sub-agent's id: asked again, it is the same run
        timeout_s=math.inf,  # it has limits of its own
    )


async def _delegate(pool: Pool, name: str, invocation: Invocation) -> Result:
    who = Principal(invocation.caller.principal, ())
    try:
        view = await _begun(pool, who, name, invocation)
    except Busy as busy:
        raise ToolError(str(busy)) from None
    async for _ in pool.follow(who, view.id):
        pass  # until it ends, or waits itself
    view = await pool.get(who, view.id)
    if view.state == "input-required":
        raise Wanted(f"{name} asks: {view.question}", child=view.id, free=view.wants == "words")
    spent = {"run": view.id, "state": view.state, "tokens": view.tokens}
    if view.state == "completed":
        return Result(view.answer or "", structured=spent)
    return Result(f"{name} did not finish ({view.state}): {view.reason}", failed=True, structured=spent)


async def _begun(pool: Pool, who: Principal, name: str, invocation: Invocation) -> View:
    try:
        return await pool.get(who, invocation.operation)
    except KeyError:
        parent = pool.own.progress(invocation.caller.run)
        if parent is None:
            raise ToolError("the run that asks is not here any more") from None
        limits = share(parent, pool.own.children(parent.run), (await pool.agents())[name].limits)
        task = str(invocation.arguments["task"])
        return await pool.start(who, name, task, parent=parent.run, limits=limits, run=invocation.operation)


def share(parent: Progress, siblings: list[Progress], own: RunLimits) -> RunLimits:
    """A sub-agent's limits: its own, but at most half of what its parent has left, so that the parent can go on."""
    most = parent.limits
    if len(siblings) >= most.children:
        raise ToolError(f"{len(siblings)} sub-agents work already, the most at once; wait for one of them")
    promised = sum(max(0, child.limits.tokens - child.tokens) for child in siblings)
    tokens = (most.tokens - parent.tokens - promised) // 2
    seconds = (most.seconds - parent.seconds) * 0.9
    if tokens < LEAST_TOKENS or seconds <= 0:
        raise ToolError("too little is left of this run's limits for a sub-agent; do it without one")
    return RunLimits(
        turns=min(own.turns, most.turns),
        tokens=min(own.tokens, tokens),
        seconds=min(own.seconds, seconds),
        repairs=own.repairs,
        children=own.children,
    )


def _one(name: str, description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 1, "description": description}},
        "required": [name],
        "additionalProperties": False,
    }
