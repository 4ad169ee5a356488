"""Clusters that benchmarks start: each with a state and ports of its own, so that a user's goes on undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster import auth, head, ports
from cluster.auth import Limits
from cluster.client import Client
from cluster.head import Head
from cluster.settings import Settings

ROOT = Path(__file__).parent.parent
LIMITS = Limits(requests_per_minute=10**6, tokens_per_minute=10**9)  # type: ignore[call-arg]
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
        path = self.settings.state / "serve.yaml"
        if not path.exists():
            self.configure()
        done = self.trivium("up", "--config", str(path), *options)
        if done.returncode:
            raise RuntimeError(f"trivium up {' '.join(options)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def configure(self, **changes: dict[str, Any]) -> None:
        """Before `up`: change applications of the package's Serve config, by their names. None keeps an access log."""
        config = serve_config()
        config["logging_config"] = {"enable_access_log": False}
        config["applications"] = [{**each, **changes.get(each["name"], {})} for each in config["applications"]]
        (self.settings.state / "serve.yaml").write_text(json.dumps(config))  # JSON is YAML

    def client(self) -> Client:
        """For `/admin`, with the owner's key."""
        return Client(self.settings, auth.first_key(self.settings.state))

    def key(self) -> str:
        """A key that may only infer, with limits that are counted and not reached."""
        return auth.Keys(self.settings.state).create("benchmark", ("infer",), LIMITS)

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


def serve_config() -> dict[str, Any]:
    """The package's own."""
    return yaml.safe_load((ROOT / "services" / "serve.yaml").read_text())


def args_of(name: str) -> dict[str, Any]:
    """What the package's Serve config gives an application."""
    return next(each["args"] for each in serve_config()["applications"] if each["name"] == name)


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder on this disk, not in /tmp, which may be memory: then an fsync would cost nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is in there is ended and removed then too
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
