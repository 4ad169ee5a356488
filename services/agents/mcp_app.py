"""The Serve application `mcp`, which services/serve.yaml mounts at /mcp: the cluster's own tools for others' agents."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from cluster import auth
from cluster.auth import Keys
from cluster.settings import Settings, explain
from services.agents import mcp_server
from services.agents.mcp_offer import Offer, cluster_tools
from services.agents.mcp_server import McpSettings


def build(arguments: dict[str, Any]) -> Application:
    """What services/serve.yaml names; `args` there are `McpSettings`."""
    try:
        settings = McpSettings.model_validate(arguments)
    except ValidationError as error:
        raise ValueError(f"the application mcp in the Serve config: {explain(error)}") from None
    return McpApp.bind(settings)  # type: ignore[attr-defined]  # serve.ingress's types hide the deployment


@serve.deployment(name="mcp", ray_actor_options={"num_cpus": 0})
@serve.ingress()
class McpApp:
    """Answers `/mcp` in each of its replicas."""

    def __init__(self, settings: McpSettings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> ASGIApp:
        here = Settings.from_environment()
        hosts = self._settings.hosts if here.alone else (*self._settings.hosts, here.node_ip)
        settings = self._settings.model_copy(update={"hosts": hosts})
        return mcp_server.serve(cluster_tools(offer(here)), Keys(here.state), settings)


def offer(here: Settings) -> Offer:
    """What this cluster has to offer."""
    return Offer(here.state, auth.mint_key(here.state), status)


async def status() -> dict[str, Any]:
    """Nodes and applications, as any of the cluster's processes can see them."""
    nodes, overview = await asyncio.gather(asyncio.to_thread(ray.nodes), asyncio.to_thread(serve.status))
    return {
        "nodes": [
            {"ip": node["NodeManagerAddress"], "alive": node["Alive"], "resources": node["Resources"]} for node in nodes
        ],
        "applications": {
            name: {
                "status": application.status.value,
                "message": application.message,
                "replicas": {name: dict(each.replica_states) for name, each in application.deployments.items()},
            }
            for name, application in overview.applications.items()
        },
    }
