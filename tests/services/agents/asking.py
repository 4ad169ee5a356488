"""Tools, callers and calls for tests."""

from __future__ import annotations

from typing import Any

from services.agents.permits import Ask
from services.agents.tools import Caller, Invocation, Result, Run, Tool


async def nothing(invocation: Invocation) -> Result:
    return Result("done")


def tool(name: str, owner: str = "builtin", run: Run = nothing, **properties: Any) -> Tool:
    """One whose arguments are these JSON Schemas."""
    return Tool(name, f"The tool {name}.", {"type": "object", "properties": properties}, run, owner)


def caller(principal: str = "ada", agent: str = "buyer", version: str = "assistant@3", **more: Any) -> Caller:
    return Caller(principal, more.pop("scopes", ("infer",)), agent, version, "run-1", "session-1", **more)


def call(who: Caller | None = None, operation: str = "op-1", /, **arguments: Any) -> Invocation:
    return Invocation(operation, arguments, who or caller())


def ask(what: Tool, invocation: Invocation, calls_in_run: int = 0, calls_last_minute: int = 0) -> Ask:
    return Ask(what, invocation, calls_in_run, calls_last_minute)
