from __future__ import annotations

import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.records import Decision, Lineage, Verdict, Version
from cluster.registry import Registry
from cluster.settings import Settings
from tests.cluster.test_registry import write_adapter
from tests.examples import verdict

LINEAGE = Lineage(
    cycle="20260101-000000-ab",
    rows=10,
    replay_rows=3,
    table_version=7,
    dataset="datasets/curate-1",
    dataset_digest="d1",
    recipe="default.yaml",
    recipe_digest="r1",
    code_revision="abc",
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose MLflow has its tables: making them takes seconds, a copy none."""
    settings = Settings(state=tmp_path_factory.mktemp("mlflow"))
    assert Registry(settings).mirror_aliases([])
    return settings.state


@pytest.fixture
def settings(tmp_path: Path, tables: Path) -> Settings:
    shutil.copytree(tables, tmp_path / "state")
    return Settings(state=tmp_path / "state")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def create(settings: Settings, source: Path) -> Version:
    return Registry(settings).create("assistant", "seed", "adapter", 8, "assistant@0", LINEAGE, source)


def decide(sequence: int, action: str, version: str, verdict: Verdict | None = None) -> Decision:
    return Decision(
        sequence=sequence, time=1.0, action=action, alias="assistant", version=version, base="seed", actor="owner",
        reason="r", verdict=verdict,
    )  # fmt: skip


CREATED, STAGED = decide(0, "create", "assistant@0"), decide(1, "stage", "assistant@1")
PROMOTED, BACK = decide(2, "promote", "assistant@1", verdict()), decide(3, "rollback", "assistant@0")


def shown(settings: Settings) -> dict[str, str]:
    """MLflow's aliases, with our ids."""
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_uri)
    aliases = client.get_registered_model("assistant").aliases
    tags = {name: client.get_model_version("assistant", str(number)).tags for name, number in aliases.items()}
    return {name: each["trivium.version"] for name, each in tags.items()}


def test_mlflow_shows_versions_lineage_verdicts_and_aliases(settings: Settings, adapter: Path) -> None:
    from mlflow import MlflowClient

    registry = Registry(settings)
    registry.create_base("assistant", "seed")
    assert registry.mirror_version(create(settings, adapter))
    assert registry.mirror_aliases([CREATED, STAGED])
    assert shown(settings) == {"champion": "assistant@0", "candidate": "assistant@1"}
    assert registry.mirror_aliases([CREATED, STAGED, PROMOTED])
    assert shown(settings) == {"champion": "assistant@1"}
    assert registry.mirror_aliases([CREATED, STAGED, PROMOTED, BACK])
    assert shown(settings) == {"champion": "assistant@0"}

    versions = MlflowClient(settings.tracking_uri).search_model_versions("name='assistant'")
    tags = {version.tags["trivium.version"]: version.tags for version in versions}
    assert len(versions) == len(tags) == 2, "mirroring again repeats nothing"
    assert tags["assistant@1"]["trivium.dataset_digest"] == "d1"
    assert tags["assistant@1"]["trivium.parent"] == "assistant@0"
    assert tags["assistant@1"]["trivium.verdict"] == "accepted"


def test_versions_and_aliases_go_on_while_mlflow_is_away_and_it_catches_up(settings: Settings, adapter: Path) -> None:
    with socket.socket() as taken:  # a port at which nobody answers
        taken.bind(("127.0.0.1", 0))
        away = Settings(state=settings.state, mlflow_uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
        registry = Registry(away)
        registry.create_base("assistant", "seed")
        started = time.monotonic()
        version = create(away, adapter)
        assert not registry.mirror_version(version)
        assert not registry.mirror_aliases([CREATED, STAGED, PROMOTED])
        assert time.monotonic() - started < 30
    assert Registry(settings).mirror_aliases([CREATED, STAGED, PROMOTED])
    assert shown(settings) == {"champion": "assistant@1"}


class Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(418)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_is_not_mlflow_does_no_harm(settings: Settings, adapter: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    away = Settings(state=settings.state, mlflow_uri=f"http://127.0.0.1:{server.server_port}")
    assert not Registry(away).mirror_version(create(away, adapter))
    server.shutdown()


def test_a_training_is_a_run_with_parameters_and_a_curve(
    settings: Settings, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    registry = Registry(settings)
    history = [{"step": float(step), "loss": 1 / step, "seconds": float("nan")} for step in range(1, 1501)]
    run = registry.log_run("assistant@1", {"rank": 8, "base": "seed"}, history)
    assert run is not None
    assert registry.mirror_version(create(settings, adapter), run)
    client = MlflowClient(settings.tracking_uri)
    curve = {metric.step: metric.value for metric in client.get_metric_history(run, "loss")}
    assert curve == {step: 1 / step for step in range(1, 1501)}
    assert client.get_run(run).data.params == {"rank": "8", "base": "seed"}
    assert client.get_run(run).info.status == "FINISHED"
    assert client.search_model_versions("name='assistant'")[0].run_id == run
    assert registry.log_run("assistant@2", {}, []) is not None, "a second run joins the same experiment"
    assert not (tmp_path / "mlruns").exists()
