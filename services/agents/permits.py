"""What a policy is asked before a tool is called, and what it says. `policy.py` answers with Cedar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from services.agents.tools import Invocation, Tool


@dataclass(frozen=True)
class Ask:
    """May this call be made?"""

    tool: Tool
    invocation: Invocation
    calls_in_run: int
    """Of this tool, before this one."""
    calls_last_minute: int
    """Of this tool, by this principal."""


@dataclass(frozen=True)
class Decision:
    """What the policy says, and which of its rules said it."""

    effect: Literal["permit", "deny", "ask"]
    """`ask`: a person must approve the call first."""
    policies: tuple[str, ...]
    """Ids of the policies that decided; empty where none permits, which is a denial."""
    reason: str
    """One sentence: for the model where it is denied, for the person where one is asked."""


class Permits(Protocol):
    """Whoever decides."""

    def decide(self, ask: Ask) -> Decision: ...
