"""What an agent can do to the world: one shape for tools of every kind, and the registry of them.

A tool of an MCP server, an operation of an HTTP API, a Python function, another agent: each becomes a `Tool`, and
nobody but its own module knows which it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What OpenAI's API lets a tool be called."""
OUTSIDE = ("mcp:", "a2a:")
"""How owners begin whose tools come and go."""


@dataclass(frozen=True)
class Caller:
    """Who calls a tool: all that a policy may ask about."""

    principal: str
    """Id of the API key that the run works for."""
    scopes: tuple[str, ...]
    agent: str
    version: str
    """Version of the model that wrote the call, `name@n`; empty where no model did."""
    run: str
    session: str


@dataclass(frozen=True)
class Invocation:
    """One call of one tool."""

    operation: str
    """Stays the same when a call is repeated: what an idempotent tool knows its repetition by."""
    arguments: dict[str, Any]
    """They fit the tool's schema."""
    caller: Caller


@dataclass(frozen=True)
class Result:
    """What a tool said. Always data, never instructions: the loop marks it so for the model."""

    content: str
    failed: bool = False
    """The tool itself says so; the model may try something else."""
    structured: Any = None
    """The same as JSON, where the tool gives it."""


Run = Callable[[Invocation], Awaitable[Result]]
"""Raises `ToolError` for what the model may repair, anything else for a defect."""


class ToolError(Exception):
    """One sentence, for the model."""


@dataclass(frozen=True)
class Tool:
    """One tool, whoever carries it out."""

    name: str
    description: str
    schema: dict[str, Any]
    """JSON Schema (2020-12) of the arguments, an object."""
    run: Run = field(repr=False, compare=False)
    owner: str
    """Who answers for it: `builtin`, `function:MODULE`, `mcp:SERVER`, `openapi:API`, `a2a:AGENT`, `agent:NAME`."""
    idempotent: bool = False
    """The same operation may be carried out again; any other tool never runs twice for one call."""
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name for a tool; use up to 64 letters, digits, _ and -")

    @cached_property
    def version(self) -> str:
        """Digest of what a model is told of it: another description is another tool."""
        told = json.dumps([self.name, self.description, self.schema], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def offer(self) -> dict[str, Any]:
        """As OpenAI's API takes it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}


class Toolbox:
    """Tools by name. Two of one name are an error: a model could not say which it means."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self.add(tool)

    def add(self, tool: Tool) -> None:
        if (other := self._tools.get(tool.name)) is not None:
            raise ValueError(f"{tool.owner} and {other.owner} both have a tool called {tool.name}; rename one of them")
        self._tools[tool.name] = tool

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def chosen(self, names: Iterable[str]) -> Toolbox:
        """The tools with these names; `mcp:shop/find` is one of an owner's, and `mcp:shop/*` all of them.

        Raises `ValueError` for an unknown one. What owners outside have is not known before somebody has consented to
        it, or while they do not answer: of theirs there may be none.
        """
        found: dict[str, Tool] = {}
        for wanted in names:
            owner, _, name = wanted.rpartition("/")
            these = [
                tool
                for tool in self._tools.values()
                if (not owner or tool.owner == owner) and (tool.name == name or (owner and name == "*"))
            ]
            if not these and not owner.startswith(OUTSIDE):
                known = ", ".join(sorted(self._tools)) or "none"
                raise ValueError(f"there is no tool {wanted}; there are: {known}")
            found |= {tool.name: tool for tool in these}
        return Toolbox(found.values())
