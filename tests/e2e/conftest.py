"""One demo for all tests that need a promoted version."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cluster

REQUESTS = 400


@dataclass(frozen=True)
class Shown:
    """What a demo left behind."""

    report: dict[str, Any]
    out: Path
    said: str

    @property
    def champion(self) -> str:
        return self.report["champion"]["after"]


@pytest.fixture(scope="session")
def shown(cluster: Cluster) -> Shown:
    """`trivium demo` on a little of its own traffic, in one turn and with a bad candidate in the end, from a shell that
    holds an earlier cluster's key."""
    shell = replace(cluster, variables=cluster.variables | {"OPENAI_API_KEY": "sk-trivium-of-an-earlier-cluster"})
    out = cluster.state / "demo"
    sizes = ("--requests", str(REQUESTS), "--validate", "60", "--cycles", "1", "--plant-bad-candidate")
    said = shell.trivium("demo", *sizes, "--out", str(out), timeout_s=800).stdout
    return Shown(json.loads((out / "report.json").read_text()), out, said)
