"""The settings of the application `agents` in `services/serve.yaml`; each part's own stand in its own file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from cluster.settings import Strict
from services.agents.a2a_server import A2ASettings
from services.agents.contract import Agent
from services.agents.memory.settings import MemorySettings
from services.agents.policy import PolicySettings
from services.agents.toolbox.settings import ToolSettings

_NAME = re.compile(r"[A-Za-z0-9_-]{1,58}")
_RESERVED = {"runs"}
"""Names that paths below /agents have already."""


class AgentsSettings(Strict):
    """Who there is, and how much they may do at once."""

    agents: dict[str, Agent] = {}
    tools: ToolSettings = ToolSettings()
    """What there is to give to an agent."""
    policy: PolicySettings = PolicySettings()
    """Which calls may be made."""
    memory: MemorySettings = MemorySettings()  # type: ignore[call-arg]
    a2a: A2ASettings = A2ASettings()
    """How they meet the agents of others."""
    most_runs: Annotated[int, Field(ge=1)] = 4096
    """In one replica at once, those that wait for somebody among them; more are refused with 503."""
    token_ids: bool = True
    """Keep the token ids and log-probabilities of what the model writes, to train on."""

    @model_validator(mode="after")
    def _named(self) -> AgentsSettings:
        for name in self.agents:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise ValueError(f"{name!r} is no name for an agent; use up to 58 letters, digits, _ and -, not `runs`")
        return self
