"""The tool `share_memory`: the blackboard of a run, as its agents see it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from cluster.auth import Principal
from services.agents.contract import Runs
from services.agents.memory.blackboard import Boards
from services.agents.tools import Caller, Invocation, Result, Tool, ToolError

Root = Callable[[Caller], Awaitable[str]]
"""The run that all others of the caller's tree come from: its own, if nobody spawned it."""


def tree_of(runs: Runs) -> Root:
    """From run to parent until there is none."""

    async def root(caller: Caller) -> str:
        who, run = Principal(caller.principal, caller.scopes), caller.run
        while (parent := (await runs.get(who, run)).parent) is not None:
            run = parent
        return run

    return root


SCHEMA = {
    "type": "object",
    "properties": {
        "action": {"type": "string", "enum": ["put", "get", "list"]},
        "key": {"type": "string", "description": "Name of the value; left out for list."},
        "value": {"type": "string", "description": "What to put there, in place of what was."},
    },
    "required": ["action"],
    "additionalProperties": False,
}


def share_memory(boards: Boards, root: Root) -> Tool:
    """Which board it is depends on the caller alone, never on what a model writes."""

    async def run(call: Invocation) -> Result:
        caller, given = call.caller, call.arguments
        tree, key = (caller.principal, await root(caller)), given.get("key")
        if given["action"] == "list":
            notes = [{"key": key, "bytes": size, "by": writer} for key, size, writer in await boards.list(tree)]
            return Result(json.dumps(notes, ensure_ascii=False), structured=notes)
        if key is None:
            raise ToolError(f"{given['action']} needs a key")
        if given["action"] == "get":
            value = await boards.get(tree, key)
            if value is None:
                raise ToolError(f"nothing is shared under {key!r}; list says what is")
            return Result(value)
        if "value" not in given:
            raise ToolError("put needs a value")
        try:
            await boards.put(tree, key, given["value"], caller.run, call.operation)
        except ValueError as error:
            raise ToolError(str(error)) from None
        return Result(f"shared under {key!r}")

    return Tool(
        name="share_memory",
        description="Share values with the other agents that work on the same task: put one under a key, get one, or "
        "list all. They last as long as the task.",
        schema=SCHEMA,
        run=run,
        owner="builtin",
        idempotent=True,  # the board knows an operation that it has carried out
    )
