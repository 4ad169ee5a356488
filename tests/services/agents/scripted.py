"""Runs without Ray and without a model: a script says what the model says, and tools write down what they did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.auth import Principal
from cluster.log import Log
from services.agents.contract import Agent, RunLimits
from services.agents.journal import Thought
from services.agents.loop import Turn
from services.agents.permits import Ask, Decision
from services.agents.run import Peers, Pool
from services.agents.tools import Invocation, Result, Tool, Toolbox

ANNA, BOB, ADMIN = Principal("anna", ("agents",)), Principal("bob", ("agents",)), Principal("owner")
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def call(tool: str, arguments: Any = None, id: str = "c") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return {"id": id, "type": "function", "function": {"name": tool, "arguments": text}}


def says(content: str | None = None, *calls: dict[str, Any], tokens: int = 10, **rest: Any) -> Thought:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return Thought(message, request_id="req-1", version="tiny@1", prompt_tokens=tokens, completion_tokens=0, **rest)


@dataclass
class Scripted:
    """Says what the script has for a conversation with that many assistant's messages."""

    script: Callable[[Turn], Thought]
    turns: list[Turn] = field(default_factory=list)

    @classmethod
    def of(cls, *thoughts: Thought) -> Scripted:
        return cls(lambda turn: thoughts[sum(message["role"] == "assistant" for message in turn.messages)])

    async def __call__(self, turn: Turn) -> Thought:
        self.turns.append(replace(turn, messages=list(turn.messages)))
        return self.script(turn)


@dataclass
class Listed:
    """Permits what is listed, asks a person for what else is, denies all the rest."""

    permitted: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    seen: list[Ask] = field(default_factory=list)

    def decide(self, ask: Ask) -> Decision:
        self.seen.append(ask)
        if ask.tool.name in self.permitted:
            return Decision("permit", ("listed",), "it is listed")
        if ask.tool.name in self.asked:
            return Decision("ask", ("asked",), "Somebody must look at it.")
        return Decision("deny", (), f"nothing permits {ask.tool.name}")


def noting(path: Path, name: str, idempotent: bool = False) -> Tool:
    """Adds a line to a file each time that it is called: its operation."""

    async def note(invocation: Invocation) -> Result:
        with open(path, "a") as file:
            file.write(f"{name} {invocation.operation}\n")
            file.flush()
            os.fsync(file.fileno())
        return Result(f"noted {invocation.arguments['text']}")

    return Tool(name, "Notes a text.", TEXT, note, "function:tests", idempotent)


def pool(
    state: Path,
    model: Any,
    *tools: Tool,
    agents: dict[str, Agent] | None = None,
    permits: Any = None,
    peers: Peers | None = None,
    principals: tuple[Principal, ...] = (ANNA, BOB, ADMIN),
    most: int = 4096,
    **limits: Any,
) -> Pool:
    """One process's, with one agent `clerk` that has all the tools."""
    names = tuple(tool.name for tool in tools)
    known = {who.id: who for who in principals}
    return Pool(
        state,
        agents or {"clerk": Agent(description="Does as told.", tools=names, limits=RunLimits(**limits))},
        Toolbox(tools),
        permits or Listed(names),
        model,
        known.get,
        log=Log(state / "log"),
        peers=peers,
        most=most,
    )
