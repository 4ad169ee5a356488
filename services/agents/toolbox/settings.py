"""The tools that a cluster's agents may be given, as `services/serve.yaml` names them."""

from __future__ import annotations

from cluster.settings import Strict
from services.agents.toolbox.database import SqlSettings
from services.agents.toolbox.fetch import FetchSettings
from services.agents.toolbox.functions import FunctionSettings
from services.agents.toolbox.mcp_tools import McpToolsSettings
from services.agents.toolbox.openapi_tools import OpenApiSettings
from services.agents.toolbox.remote import RemoteAgentsSettings
from services.agents.toolbox.sandbox import SandboxSettings


class ToolSettings(Strict):
    """What is left out is not there. Which agent gets what of it is the agent's to say, and the policy's to permit."""

    functions: tuple[FunctionSettings, ...] = ()
    openapi: tuple[OpenApiSettings, ...] = ()
    sandbox: SandboxSettings | None = None
    """`python` and `shell`."""
    http_get: FetchSettings | None = None
    sql: SqlSettings | None = None
    mcp: McpToolsSettings = McpToolsSettings()
    """Servers of the Model Context Protocol; what they offer wants an operator's consent (`trivium agents consent`)."""
    a2a: RemoteAgentsSettings = RemoteAgentsSettings()
    """Agents of others."""
