from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cluster.environment import client_environment, environment, folder, make_folder, token_path
from cluster.settings import Settings

HAPROXY_SOCKET_BYTES = 97
NODE_ID_BYTES = 56


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own shell may have a cluster's environment already."""
    for name in [name for name in os.environ if name.startswith(("RAY_", "TRIVIUM_", "VLLM_", "OTEL_"))]:
        monkeypatch.delenv(name)


def test_token_is_made_once_and_is_this_users_alone(state: Path) -> None:
    path = Path(environment(Settings(state=state))["RAY_AUTH_TOKEN_PATH"])
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    environment(Settings(state=state))
    assert path.read_text() == token


def test_authentication_cannot_be_switched_off_by_the_shell(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert environment(Settings(state=state))["RAY_AUTH_MODE"] == "token"


def test_own_token_of_the_user_wins(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("mine")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert token_path(Settings(state=state)) == tmp_path / "token"


def test_choices_can_be_made_otherwise(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    assert environment(Settings(state=state))["VLLM_CPU_KVCACHE_SPACE"] == "4"


def test_where_spans_go_is_known_to_every_process(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [name for name in environment(Settings(state=state)) if name.startswith("OTEL_")]
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SERVICE_NAME": "chat"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert given.items() <= environment(Settings(state=state)).items()


def test_a_process_with_the_environment_has_the_same_settings(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state=state, http_port=20000, mlflow_uri="http://mlflow:5000")
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == settings


def test_environment_repeats_itself(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state=state)
    first = client_environment(settings)
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    assert client_environment(settings) == first


def test_only_a_node_that_others_reach_leaves_loopback(state: Path) -> None:
    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert environment(Settings(state=state))[switch] == "0"
    assert environment(Settings(state=state, node_ip="10.0.0.1"))[switch] == "1"


@pytest.mark.parametrize("parent", ["/tmp", "/scratch/job/123", "/a/folder/with/a/path/that/is/much/too/long"])
def test_sockets_fit_into_their_paths(state: Path, monkeypatch: pytest.MonkeyPatch, parent: str) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: parent)
    found = environment(Settings(state=state))
    for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
        # Serve puts the node's id before the last part.
        assert len(found[name]) + 1 + NODE_ID_BYTES <= HAPROXY_SOCKET_BYTES


def test_folder_for_sockets_must_be_ours(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.environment.folder", lambda settings: tmp_path / "guessed")
    settings = Settings(state=state)
    make_folder(settings)
    assert stat.S_IMODE((tmp_path / "guessed").stat().st_mode) == 0o700
    (tmp_path / "guessed").chmod(0o777)
    with pytest.raises(ValueError, match="is not a folder of this user alone"):
        make_folder(settings)


def test_two_states_have_two_folders(tmp_path: Path) -> None:
    assert folder(Settings(state=tmp_path / "a")) != folder(Settings(state=tmp_path / "b"))
