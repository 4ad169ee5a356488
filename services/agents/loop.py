"""The loop: model turn -> tool calls -> results -> next turn, until an answer, a limit, or a person is wanted.

Plain Python: no Ray, no HTTP, and no memory of its own. What is next follows from the journal alone (`Progress`), and
each step is on disk before what comes after it begins; so whoever has the journal can go on with the run.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import referencing
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from cluster.records import Message
from services.agents import journal
from services.agents.contract import Agent
from services.agents.journal import Asked, Call, Called, Decided, Ended, Event, Progress, Resulted, Thought
from services.agents.permits import Ask, Permits
from services.agents.tools import Caller, Invocation, Result, Tool, Toolbox, ToolError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """What the model is asked."""

    principal: str
    session: str
    model: str
    messages: list[Message]
    tools: list[dict[str, Any]]
    temperature: float
    max_tokens: int


class Model(Protocol):
    """Whoever thinks. Raises `ModelError` if it will not answer, however often it is asked."""

    async def __call__(self, turn: Turn) -> Thought: ...


class ModelError(Exception):
    """One sentence, for whoever reads how the run ended."""


class Wanted(Exception):
    """Raised by a tool that cannot go on without a person."""

    def __init__(self, question: str, child: str | None = None, free: bool = True) -> None:
        super().__init__(question)
        self.question, self.child, self.free = question, child, free


class Desk(Protocol):
    """What a run works with."""

    model: Model
    tools: Toolbox
    permits: Permits

    async def write(self, *events: Event) -> None:
        """Returns once they are on disk, and taken into the run's progress. Raises if the run is somebody else's."""

    def hold(self) -> None:
        """Raises if the run is somebody else's by now: asked before everything that has an effect."""

    def caller(self) -> Caller | None:
        """Whom the run works for; None once there is no such key any more."""

    def lately(self, tool: str) -> int:
        """Calls of a tool by this principal in the last minute."""


async def work(run: Progress, agent: Agent, desk: Desk) -> None:
    """Go on with a run from where its journal stands until it ends or waits for a person."""
    while run.state == "working":
        begun = [call for call in run.pending if call.begun and not call.lost]
        caller = desk.caller()
        if caller is None:
            await desk.write(Ended("failed", reason=f"there is no key of {run.principal} any more"))
        elif begun:
            await _act(run, begun, caller, desk)
        elif run.pending:
            await desk.write(*_judged(run, run.pending, caller, desk))
        else:
            await _think(run, agent, caller, desk)


async def _think(run: Progress, agent: Agent, caller: Caller, desk: Desk) -> None:
    """One turn of the model. What it wants, and what the policy says to that, come to disk together."""
    if spent := over(run):
        return await desk.write(Ended("failed", reason=spent))
    desk.hold()
    offers = [tool.offer for tool in desk.tools]
    most = min(agent.max_tokens, run.limits.tokens - run.tokens)
    turn = Turn(run.principal, run.thread, agent.model, run.messages, offers, agent.temperature, most)
    try:
        async with asyncio.timeout(run.limits.seconds - run.seconds):
            thought = await desk.model(turn)
    except TimeoutError:
        return await desk.write(Ended("failed", reason=f"it worked for {run.limits.seconds:g} s, its limit"))
    except ModelError as error:
        return await desk.write(Ended("failed", reason=str(error)))
    wanted = journal.calls(run.run, run.turns + 1, thought.message)
    if not wanted:
        cut = f"the answer was cut off at {most:,} tokens" if thought.finish_reason == "length" else None
        answer = thought.message.get("content") or ""
        return await desk.write(thought, Ended("completed", answer=answer, reason=cut))
    await desk.write(thought, *_judged(run, wanted, _of(caller, thought.version), desk))


def over(run: Progress) -> str | None:
    """Which limit a run has come to, in words."""
    limits = run.limits
    if run.turns >= limits.turns:
        return f"it took {run.turns} turns, its limit"
    if run.tokens >= limits.tokens:
        return f"it spent {run.tokens:,} tokens, its limit is {limits.tokens:,}"
    if run.seconds >= limits.seconds:
        return f"it worked for {run.seconds:.0f} s, its limit is {limits.seconds:g} s"
    return None


def _judged(run: Progress, wanted: list[Call], caller: Caller, desk: Desk) -> list[Event]:
    """What happens to calls: they are made, refused, sent back to the model, or a person is asked."""
    events: list[Event] = []
    question: Asked | None = None
    counts = dict(run.counts)
    for call in wanted:
        tool = desk.tools.get(call.tool)
        if call.lost and not (tool and tool.idempotent):
            question = question or _lost(call)
        elif call.lost or call.approved or call.effect == "permit":
            events.append(Called(call.operation, call.tool))
        elif call.effect == "ask":
            question = question or _approval(call)
        else:
            events += _decided(call, tool, counts, caller, desk)
    invalid = any(isinstance(event, Resulted) and event.invalid for event in events)
    if invalid and run.repairs >= run.limits.repairs:
        what = f"the model wrote calls that do not fit their tools {run.repairs + 1} times in a row"
        return [event for event in events if not isinstance(event, Called)] + [Ended("failed", reason=what)]
    return events or [question or Ended("failed", reason="its journal does not say what is next")]


def _decided(call: Call, tool: Tool | None, counts: dict[str, int], caller: Caller, desk: Desk) -> list[Event]:
    fits = fitting(call, tool, desk.tools)
    if isinstance(fits, str) or tool is None:
        return [Resulted(call.operation, call.tool, f"Error: {fits}", failed=True, invalid=True, ours=True)]
    invocation = Invocation(call.operation, fits, caller)
    said = desk.permits.decide(Ask(tool, invocation, counts.get(tool.name, 0), desk.lately(tool.name)))
    decided = Decided(call.operation, tool.name, tool.version, said.effect, said.policies, said.reason)
    if said.effect == "deny":
        refused = f"Not allowed: {said.reason}"
        return [decided, Resulted(call.operation, tool.name, refused, failed=True, ours=True)]
    if said.effect == "ask":
        return [decided]
    counts[tool.name] = counts.get(tool.name, 0) + 1
    return [decided, Called(call.operation, tool.name)]


def fitting(call: Call, tool: Tool | None, tools: Toolbox) -> dict[str, Any] | str:
    """The arguments of a call, or one sentence about what does not fit."""
    if tool is None:
        names = ", ".join(each.name for each in tools) or "none"
        return f"there is no tool called {call.tool[:64]!r}; there are: {names}"
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        return f"the arguments of {tool.name} are not JSON ({error}); write one JSON object"
    if not isinstance(arguments, dict):
        return f"the arguments of {tool.name} must be one JSON object"
    try:
        wrong = best_match(_validator(_Schema(tool)).iter_errors(arguments))
    except (referencing.exceptions.Unresolvable, RecursionError) as error:
        return f"{tool.name} cannot be called: its schema is broken ({error})"
    return arguments if wrong is None else _complaint(tool, wrong)


def _complaint(tool: Tool, wrong: ValidationError) -> str:
    where = ".".join(str(part) for part in wrong.absolute_path)
    return f"the arguments of {tool.name} do not fit: {f'{where}: ' if where else ''}{wrong.message[:500]}"


@dataclass(frozen=True)
class _Schema:
    """A tool's schema, as a key: one tool is one validator."""

    tool: Tool

    def __hash__(self) -> int:
        return hash(self.tool.version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Schema) and self.tool.schema == other.tool.schema


@lru_cache(maxsize=4096)
def _validator(schema: _Schema) -> Draft202012Validator:
    # An empty registry: a schema that refers to an address is not a reason to go there.
    return Draft202012Validator(schema.tool.schema, registry=referencing.Registry())


async def _act(run: Progress, begun: list[Call], caller: Caller, desk: Desk) -> None:
    """Make calls, all at once. Each one's result is on disk as soon as it is there."""
    caller = _of(caller, run.version)
    if len(begun) == 1:
        wants = [await _make(run, begun[0], caller, desk)]
    else:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_make(run, call, caller, desk)) for call in begun]
        wants = [task.result() for task in tasks]
    if questions := [question for question in wants if question]:
        await desk.write(questions[0])


async def _make(run: Progress, call: Call, caller: Caller, desk: Desk) -> Asked | None:
    """One call. What it wants to know, if it cannot go on without a person."""
    tool = desk.tools.get(call.tool)
    if tool is None:
        gone = f"Error: the tool {call.tool} is not there any more"
        await desk.write(Resulted(call.operation, call.tool, gone, failed=True, ours=True))
        return None
    invocation = Invocation(call.operation, json.loads(call.arguments), caller)
    most_s = min(tool.timeout_s, max(run.limits.seconds - run.seconds, 0.001))
    desk.hold()
    try:
        async with asyncio.timeout(most_s):
            result = await tool.run(invocation)
    except Wanted as wanted:
        return Asked(wanted.question, call.operation, wanted.child, free=wanted.free)
    except Exception as error:
        result = _failed(tool, error, most_s)
    spent = result.structured.get("tokens", 0) if tool.owner.startswith("agent:") and result.structured else 0
    await desk.write(
        Resulted(call.operation, tool.name, result.content, result.failed, structured=result.structured, tokens=spent)
    )
    return None


def _failed(tool: Tool, error: Exception, most_s: float) -> Result:
    match error:
        case ToolError():
            return Result(f"Error: {error}", failed=True)
        case TimeoutError():
            known = "" if tool.idempotent else "; whether it took effect is not known"
            return Result(f"Error: {tool.name} did not answer within {most_s:.3g} s{known}", failed=True)
        case _:
            logger.error("the tool %s failed", tool.name, exc_info=error)
            return Result(f"Error: {tool.name} failed", failed=True)


def _lost(call: Call) -> Asked:
    question = (
        f"The process that called {call.tool} with {call.arguments[:500]} died before it had written down what came of "
        "it. Did the call take place? Approve with its result if it did, approve without one to make it again, or "
        "decline to go on without it."
    )
    return Asked(question, call.operation)


def _approval(call: Call) -> Asked:
    return Asked(f"May {call.tool} be called with {call.arguments[:2000]}? {call.reason}".strip(), call.operation)


def _of(caller: Caller, version: str) -> Caller:
    return Caller(caller.principal, caller.scopes, caller.agent, version, caller.run, caller.session)
