"""The Serve application `mcp`, which services/serve.yaml mounts at /mcp: the cluster's own tools for others' agents."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from cluster import auth
from cluster.auth import Keys, Principal
from cluster.settings import Settings, explain
from services.agents import mcp_server
from services.agents.elsewhere import Elsewhere
from services.agents.loop import ModelError, Turn
from services.agents.mcp_offer import Ask, Offer, cluster_tools
from services.agents.mcp_server import McpSettings
from services.agents.model import Deployment

MOST = 1024
"""Tokens of an answer."""
PATIENCE_S = 120.0


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
    elsewhere = Elsewhere()
    return Offer(here.state, auth.mint_key(here.state), status, _asking(here), elsewhere, elsewhere)


def _asking(here: Settings) -> Ask:
    deployment = Deployment(here.base_url.removesuffix("/v1"), auth.mint_key(here.state), tokens=False)

    async def ask(who: Principal, model: str, prompt: str) -> str:
        # A session of its own each time: a canary draws it like any other request.
        asked = Turn(who.id, f"mcp-{secrets.token_hex(8)}", model, [{"role": "user", "content": prompt}], [], 0.0, MOST)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return (await deployment(asked)).message.get("content") or ""
        except ModelError as error:
            raise ValueError(str(error)) from None
        except TimeoutError:
            raise ValueError(f"{model} did not answer within {PATIENCE_S:.0f} s; try again later") from None

    return ask


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
