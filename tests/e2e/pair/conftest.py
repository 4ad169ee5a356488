"""Two replicas that serve users as the real ones do, without an engine: what a fault does to them needs none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.client import Client
from cluster.registry import Registry
from tests.cluster.test_registry import write_adapter
from tests.conftest import Cluster
from tests.e2e.using import client, one_answer
from tests.waiting import eventually

ROOT = Path(__file__).parents[3]
CANDIDATE = "assistant@1"


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("pair")
    cluster = Cluster.on_free_ports(folder / "state")
    cluster = replace(cluster, variables={**cluster.variables, "PYTHONPATH": str(ROOT)})
    cluster.state.mkdir()
    try:
        up(cluster)
        registry = Registry(cluster.settings)
        registry.create("assistant", "seed", "adapter", 8, "assistant@0", None, write_adapter(folder / "adapter"))
        with Client(cluster.settings, cluster.api_key) as admin:
            admin.canary("assistant", CANDIDATE, "what happens to one when processes die?")
        yield cluster
    finally:
        cluster.trivium("down", check=False)


def up(cluster: Cluster, deployment: dict[str, Any] | None = None, **args: Any) -> None:
    """`trivium up` with two replicas, unless `args` or the options of the deployment say otherwise."""
    assistant = {
        "name": "assistant",
        "route_prefix": "/",
        "import_path": "tests.e2e.pair.talker:build",
        "args": {"model": "seed", "alias": "assistant", "replicas": 2, **args},
        "deployments": [{"name": "Gateway:seed", **(deployment or {})}],
    }
    rollout = {"name": "rollout", "route_prefix": "/admin/rollout", "import_path": "services.rollout:app"}
    rollout["args"] = {"shares": [0.5], "alpha": 1e-9}  # faults hit both arms, and nobody scores
    file = cluster.state.parent / "serve.yaml"
    file.write_text(yaml.safe_dump({"proxy_location": "EveryNode", "applications": [assistant, rollout]}))
    cluster.trivium("up", "--config", str(file))


def arms(cluster: Cluster) -> dict[str, str | None]:
    """Which version answers each of some sessions."""
    sessions = [f"session-{number}" for number in range(16)]
    with client(cluster) as api:
        heard = [one_answer(api, "assistant", "hi", False, begun=0, session=session) for session in sessions]
    return {session: each.version for session, each in zip(sessions, heard, strict=True)}


def answering(cluster: Cluster) -> set[int]:
    """Process ids of the replicas that answer new requests."""
    with client(cluster) as api:
        heard = [one_answer(api, "assistant", "who are you?", False, begun=0) for _ in range(12)]
    return {int(each.text.split()[0]) for each in heard if each.text}


def settle(cluster: Cluster, replicas: int = 2, within_s: float = 90) -> set[int]:
    """Wait until so many replicas answer; their process ids."""
    return eventually(
        lambda: answering(cluster), within_s, f"{replicas} replicas", lambda found: len(found) == replicas
    )
