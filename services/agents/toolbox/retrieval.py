"""`retrieve`: what the caller's memory has about something."""

from __future__ import annotations

from dataclasses import asdict

from services.agents.memory.passages import Memory
from services.agents.tools import Invocation, Result, Tool

MOST = 20
"""Passages."""
LONGEST = 4096
"""Characters of a query."""

SCHEMA = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "minLength": 1, "maxLength": LONGEST, "description": "What to look for."},
        "count": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 5, "description": "Passages at most."},
    },
    "required": ["query"],
    "additionalProperties": False,
}


def retrieve(memory: Memory) -> Tool:
    """Searches what was stored for the caller's principal, and never anybody else's."""

    async def run(invocation: Invocation) -> Result:
        query, count = invocation.arguments["query"], invocation.arguments.get("count", 5)
        passages = await memory.search(invocation.caller.principal, query, count)
        if not passages:
            return Result("Nothing was found.", structured=[])
        content = "\n\n".join(f"[{number}] {each.source}\n{each.text}" for number, each in enumerate(passages, 1))
        return Result(content, structured=[asdict(each) for each in passages])

    description = "Search the memory for passages about something. Each comes with its source."
    return Tool("retrieve", description, SCHEMA, run, "builtin", idempotent=True)
