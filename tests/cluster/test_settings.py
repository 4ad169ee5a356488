from __future__ import annotations

from pathlib import Path

import pytest

from cluster.settings import Settings, Strict


class Recorder(Strict):
    flush_every_ms: float = 0.5


def test_state_is_absolute_and_under_the_present_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIVIUM_STATE", raising=False)
    assert Settings.from_environment().state == tmp_path / ".trivium"
    monkeypatch.setenv("TRIVIUM_STATE", "elsewhere")
    assert Settings.from_environment().state == tmp_path / "elsewhere"


def test_addresses_follow_the_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIVIUM_STATE", str(tmp_path))
    monkeypatch.setenv("TRIVIUM_HTTP_PORT", "8123")
    monkeypatch.setenv("TRIVIUM_DASHBOARD_PORT", "8999")
    settings = Settings.from_environment()
    assert settings.base_url == "http://127.0.0.1:8123/v1"
    assert settings.dashboard_url == "http://127.0.0.1:8999"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/registry/mlflow.db"


def test_a_variable_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_HTTP_PORT", "eighty")
    with pytest.raises(ValueError, match=r"environment variable TRIVIUM_(?i:http_port): .*integer"):
        Settings.from_environment()


def test_a_mistyped_key_is_an_error_that_names_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "recorder.yaml"
    file.write_text("flush_evry_ms: 1")
    with pytest.raises(ValueError, match=r"recorder\.yaml: flush_evry_ms: Extra inputs are not permitted"):
        Recorder.load(file)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a: [", "is not YAML"), ("[1]", "the document: "), ("flush_every_ms: soon", "flush_every_ms: .*number")],
)
def test_a_broken_file_gets_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "recorder.yaml").write_text(text)
    with pytest.raises(ValueError, match=complaint) as caught:
        Recorder.load(tmp_path / "recorder.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Recorder.load(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert Recorder.load(tmp_path / "empty.yaml") == Recorder()
