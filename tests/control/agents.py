"""Agents with tools whose effects a test can see and hold up: files in a folder under state."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from ray import serve

from cluster.settings import Settings
from services.agents.app import Parts, application
from services.agents.memory.share import Root
from services.agents.settings import AgentsSettings
from services.agents.toolbox.mcp_tools import McpTools
from services.agents.tools import Invocation, Result, Tool, Toolbox
from tests.services.agents.scripted import Listed

TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}
SHOP = str(Path(__file__).parents[1] / "services" / "agents" / "shop.py")
SERVER = {"command": sys.executable, "args": [SHOP], "environment": ["SHOP_FOLDER"]}
ARGS: dict[str, Any] = {
    "agents": {
        "clerk": {
            "description": "Does as told.",
            "model": "scripted",
            "tools": ["note", "hold", "pay", "spawn_helper", "mcp:shop/*"],
            "limits": {"seconds": 120},
        },
        "helper": {"description": "Helps.", "model": "scripted", "tools": ["note", "hold"]},
    },
    "tools": {"mcp": {"servers": {"shop": SERVER}}},
    "most_runs": 200,
}


def folder() -> Path:
    return Settings.from_environment().state / "effects"


def noting(name: str) -> Tool:
    async def note(invocation: Invocation) -> Result:
        folder().mkdir(exist_ok=True)
        with open(folder() / "notes", "a") as file:
            file.write(f"{name} {invocation.arguments['text']} {invocation.operation}\n")
            file.flush()
            os.fsync(file.fileno())
        return Result(f"noted {invocation.arguments['text']}")

    return Tool(name, "Notes a text.", TEXT, note, "function:tests")


async def _hold(invocation: Invocation) -> Result:
    while not (folder() / invocation.arguments["text"]).exists():
        await asyncio.sleep(0.05)
    return Result("held")


async def parts(settings: AgentsSettings, root: Root) -> Parts:
    hold = Tool("hold", "Waits for a file.", TEXT, _hold, "function:tests", idempotent=True)
    permits = Listed(permitted=("note", "hold", "spawn_helper", "look_up"), asked=("pay",))
    servers = McpTools(settings.tools.mcp, Settings.from_environment().state)
    return Parts(Toolbox([noting("note"), noting("pay"), hold]), permits, servers=servers)


def app(settings: AgentsSettings) -> serve.Application:
    return application(settings, parts)


app.__annotations__["settings"] = AgentsSettings
