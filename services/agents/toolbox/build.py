"""The toolbox that settings describe."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.agents.memory.passages import Memory
from services.agents.toolbox import remote
from services.agents.toolbox.database import sql
from services.agents.toolbox.fetch import http_get
from services.agents.toolbox.functions import function_tool
from services.agents.toolbox.openapi_tools import openapi_tools
from services.agents.toolbox.retrieval import retrieve
from services.agents.toolbox.sandbox import sandbox_tools
from services.agents.toolbox.settings import ToolSettings
from services.agents.tools import Toolbox


async def build(settings: ToolSettings, *, state: Path, memory: Memory | None = None) -> Toolbox:
    """Every tool that is named, `retrieve` too where there is a memory, but for those of MCP servers, which come and go
    with an operator's consent (`McpTools`). Tries what it can at once.

    `state` is kept from the sandbox. Raises `ValueError`, one sentence with the fix, for the first that does not work.
    """
    toolbox = Toolbox(function_tool(each) for each in settings.functions)
    if memory is not None:
        toolbox.add(retrieve(memory))
    if settings.http_get is not None:
        toolbox.add(http_get(settings.http_get))
    if settings.sql is not None:
        toolbox.add(await asyncio.to_thread(sql, settings.sql))
    for found in await asyncio.gather(*(openapi_tools(each) for each in settings.openapi)):
        for tool in found:
            toolbox.add(tool)
    if settings.sandbox is not None:
        for tool in await sandbox_tools(settings.sandbox, state):
            toolbox.add(tool)
    for tool in await remote.tools(settings.a2a, state):
        toolbox.add(tool)
    return toolbox
