"""What tests share: a state folder, and one running cluster for the whole session."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from cluster import ports
from cluster.settings import Settings
from tests.receiver import Receiver

hypothesis.settings.register_profile("shared", deadline=None)  # the machine may be busy with something else
hypothesis.settings.load_profile("shared")

VERDICT = pytest.StashKey[int]()
"""pytest's exit status, once the session is over."""
UP_S = 600
"""Longest that a cluster with an engine may take to come up on a busy machine of two cores."""


@dataclass(frozen=True)
class Cluster:
    """A cluster of its own: state, ports, and the command line that runs in its environment."""

    settings: Settings
    variables: dict[str, str] = field(repr=False)
    """The environment that `trivium` runs in."""

    @property
    def state(self) -> Path:
        return self.settings.state

    @property
    def base_url(self) -> str:
        return self.settings.base_url

    @property
    def api_key(self) -> str:
        return (self.state / "secrets" / "api_key").read_text().strip()

    def trivium(self, *arguments: str, check: bool = True, timeout_s: float = UP_S) -> subprocess.CompletedProcess[str]:
        """`trivium ARGUMENTS`, as a user runs it. With `check`, a failure fails the test and shows what it said."""
        result = subprocess.run(
            [Path(sys.executable).parent / "trivium", *arguments],
            env=self.variables,
            cwd=self.state,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and result.returncode != 0:
            pytest.fail(f"trivium {' '.join(arguments)} exited {result.returncode}:\n{result.stdout}\n{result.stderr}")
        return result

    def status(self) -> dict[str, Any]:
        return json.loads(self.trivium("status", "--json", check=False).stdout)

    def processes(self, name: str) -> list[psutil.Process]:
        """Its processes whose title has `name` in it; a process of another cluster is never among them."""
        found = []
        for process in psutil.process_iter():
            try:
                title = f"{process.name()} {' '.join(process.cmdline())}"
                if name in title and process.environ().get("TRIVIUM_STATE") == str(self.state):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @classmethod
    def on_free_ports(cls, state: Path) -> Cluster:
        """Not started yet. Its ports are far from the defaults: the developer's own cluster goes on undisturbed."""
        for _ in range(100):
            http = random.randrange(20000, 28000)
            settings = Settings(state=state, http_port=http, dashboard_port=http + 1, gcs_port=http + 10)
            if not any(ports.busy(port) for port in ports.fixed(settings).values()):
                ours = {f"TRIVIUM_{name.upper()}": str(value) for name, value in settings.model_dump().items() if value}
                foreign = ("TRIVIUM_", "RAY_", "OPENAI_", "MLFLOW_", "VLLM_")
                return cls(settings, {n: v for n, v in os.environ.items() if not n.startswith(foreign)} | ours)
        raise AssertionError("no free ports between 20000 and 28000")


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """The session's cluster comes last: until then nothing else has to share the machine with its engine."""
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[VERDICT] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The process ends with the verdict. The trainings in it have loaded a dozen native libraries, whose threads go on
    while the interpreter is taken apart: after 400 tests that had passed, one of them once called what was gone."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if VERDICT in config.stash and reporter and not hasattr(config, "workerinput"):
        reporter.flush()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[VERDICT])


@pytest.fixture(scope="session")
def torch() -> Any:
    """Imported by those who use it: every process that only collects tests would wait 5 s for it."""
    import torch

    return torch


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """An empty state folder."""
    return tmp_path / "state"


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Where the session's cluster exports its spans to."""
    receiver = Receiver().start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Cluster]:
    """`trivium up` with the seed model, once for all tests; only tests marked `ray` may ask for it."""
    own = Cluster.on_free_ports(tmp_path_factory.mktemp("cluster") / "state")
    own = replace(own, variables=own.variables | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    own.state.mkdir()
    try:
        own.trivium("up")
        yield own
    finally:
        own.trivium("down", check=False)
