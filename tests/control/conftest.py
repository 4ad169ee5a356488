"""Rollout and wheel on a running cluster, without an engine: what they decide and survive needs none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.conftest import Cluster

ROOT = Path(__file__).parents[2]
WHEEL = {"min_feedback": 50, "settle_s": 0, "look_every_s": 0.5, "retry_s": 1}


@pytest.fixture(scope="package")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both applications, beside two replicas of a gateway that follows the decision log as the real one does, and two
    of the gateway's chain with limits."""
    folder = tmp_path_factory.mktemp("control")
    cluster = Cluster.on_free_ports(folder / "state")
    cluster = replace(cluster, variables={**cluster.variables, "PYTHONPATH": str(ROOT)})
    cluster.state.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text("curation: {min_rows: 150, replay: {share: 0}}")
    wheel = {"name": "wheel", "route_prefix": "/admin/wheel", "import_path": "pipelines.wheel:app"}
    rollout = {"name": "rollout", "route_prefix": "/admin/rollout", "import_path": "services.rollout:app"}
    mcp = {"name": "mcp", "route_prefix": "/mcp", "import_path": "services.agents.mcp_app:build"}
    config = {
        "proxy_location": "EveryNode",
        "applications": [
            {"name": "assistant", "route_prefix": "/", "import_path": "tests.control.gateway:app"},
            {**rollout, "args": {"session_s": 0.5, "look_every_s": 0.2}},
            {**wheel, "args": {**WHEEL, "recipe": str(recipe)}},
            {"name": "limited", "route_prefix": "/limited", "import_path": "tests.control.limited:app"},
            {**mcp, "deployments": [{"name": "mcp", "num_replicas": 2}]},
        ],
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    try:
        cluster.trivium("up", "--config", str(folder / "serve.yaml"))
        yield cluster
    finally:
        cluster.trivium("down", check=False)
