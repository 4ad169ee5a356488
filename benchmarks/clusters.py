"""Clusters that benchmarks start: each with a state and ports of its own, so that a user's goes on undisturbed."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster import auth, head, ports
from cluster.client import Client
from cluster.head import Head
from cluster.settings import Settings

ROOT = Path(__file__).parent.parent
OTHERS = ("TRIVIUM_", "RAY_", "OPENAI_", "MLFLOW_", "VLLM_")
"""Variables of a shell that is set up for another cluster begin so."""


@dataclass(frozen=True)
class Cluster:
    """A cluster of its own."""

    settings: Settings
    variables: dict[str, str] = field(repr=False)
    """The environment that `trivium` runs in."""

    def trivium(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`trivium ARGUMENTS`, as a user runs it."""
        command = [str(Path(sys.executable).parent / "trivium"), *arguments]
        return subprocess.run(command, env=self.variables, cwd=self.settings.state, capture_output=True, text=True)

    def up(self, *options: str) -> str:
        """`trivium up` without access logs; what it said."""
        done = self.trivium("up", "--config", str(self._config()), *options)
        if done.returncode:
            raise RuntimeError(f"trivium up {' '.join(options)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def client(self) -> Client:
        """For `/admin`, with the owner's key."""
        return Client(self.settings, auth.first_key(self.settings.state))

    def key(self) -> str:
        """A key that may only infer, as a user of the cluster has one."""
        made = self.trivium("keys", "create", "benchmark", "--scope", "infer")
        if found := re.search(r"sk-trivium-[\w-]+", made.stdout):
            return found[0]
        return auth.Keys(self.settings.state).create("benchmark", ("infer",))

    def processes(self) -> list[psutil.Process]:
        found = Head.read(self.settings)
        return head.processes(found) if found else []

    def gateways(self) -> list[str]:
        """Addresses of the replicas that answer `/v1`, each by itself, without HAProxy."""
        listening = {
            connection.laddr.port: connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports.replicas(self.settings)
        }
        return [
            f"http://127.0.0.1:{port}" for port, pid in sorted(listening.items()) if pid and "Gateway:" in title(pid)
        ]

    def _config(self) -> Path:
        path = self.settings.state / "serve.yaml"
        if not path.exists():
            configure(path, lambda application: application)
        return path


def configure(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the package's Serve config without access logs, its application at `/` changed."""
    config = yaml.safe_load((ROOT / "services" / "serve.yaml").read_text())
    config["logging_config"] = {"enable_access_log": False}
    config["applications"] = [
        change(application) if application["route_prefix"] == "/" else application
        for application in config["applications"]
    ]
    path.write_text(json.dumps(config))  # JSON is YAML


def engine_args() -> dict[str, Any]:
    """What the package's Serve config says of the engine at `/`."""
    config = yaml.safe_load((ROOT / "services" / "serve.yaml").read_text())
    (args,) = (application["args"] for application in config["applications"] if application["route_prefix"] == "/")
    return args


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder on this disk, not in /tmp, which may be memory: then an fsync would cost nothing."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=".", ignore_cleanup_errors=True) as folder:
        yield Path(folder).absolute()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Not started yet; ended and removed afterwards."""
    with temporary() as folder:
        made = _on_free_ports(folder)
        try:
            yield made
        finally:
            made.trivium("down")


def _on_free_ports(state: Path) -> Cluster:
    """Far from the defaults."""
    for _ in range(100):
        http = random.randrange(20000, 28000)
        settings = Settings(state=state, http_port=http, dashboard_port=http + 1, gcs_port=http + 10)
        if not any(ports.busy(port) for port in ports.fixed(settings).values()):
            ours = {f"TRIVIUM_{name.upper()}": str(value) for name, value in settings.model_dump().items() if value}
            # Replicas import `benchmarks`, which is not installed.
            return Cluster(settings, {**plain_environment(), **ours, "PYTHONPATH": str(ROOT)})
    raise RuntimeError("no free ports between 20000 and 28000")


def plain_environment() -> dict[str, str]:
    """This process's environment without what points at another cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def title(process: psutil.Process | int) -> str:
    """What a process calls itself; empty if it is gone."""
    try:
        return " ".join((process if isinstance(process, psutil.Process) else psutil.Process(process)).cmdline())
    except psutil.Error:
        return ""
