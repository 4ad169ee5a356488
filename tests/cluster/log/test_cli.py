"""`trivium log`, through its door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.log import Log
from cluster.log.cli import since_time
from cluster.log.exchange import import_files
from tests.cluster.log.entries import feedback, record, step
from trivium import main


@pytest.fixture
def trivium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRIVIUM_STATE", str(tmp_path / "state"))

    def run(*arguments: str):
        return CliRunner().invoke(main, ["log", *arguments], catch_exceptions=False)

    return run


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "state" / "log")


def test_stats_as_json_count_the_log(trivium, log: Log) -> None:
    with log.writer("w") as writer:
        writer.append_many([record(1), feedback(1)])
    assert "1 rows" not in trivium("stats").output
    found = json.loads(trivium("stats", "--json").output)
    assert (found["records"], found["feedback"], found["lag_entries"], found["table_rows"]) == (1, 1, 2, 0)
    assert "2 rows added" in trivium("compact").output
    assert json.loads(trivium("stats", "--json").output)["table_rows"] == 2


def test_tail_shows_requests_and_answers_without_terminal_codes(trivium, log: Log) -> None:
    with log.writer("w") as writer:
        writer.append_many([record(1, text="\x1b[31mred [bold]text"), feedback(1, 0.5)])
    shown = trivium("tail").output
    assert "red [bold]text" in shown and "hi" in shown and "0.50 by user on req-1" in shown
    assert "\x1b[31m" not in shown


def test_import_and_export_say_what_they_did(trivium, log: Log, tmp_path: Path) -> None:
    path = tmp_path / "tune.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    assert "1 records and 1 feedback imported, 0 known already" in trivium("import", str(path)).output
    assert "0 records and 0 feedback imported, 2 known already" in trivium("import", str(path)).output
    out = tmp_path / "out.jsonl"
    assert "2 rows" in trivium("export", "--out", str(out), "--since", "1h").output
    assert {json.loads(line)["kind"] for line in out.read_text().splitlines()} == {"record", "feedback"}


def test_a_broken_line_is_one_sentence_in_the_terminal(trivium, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("{\n")
    result = trivium("import", str(path))
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {path}, line 1: not JSON")


def test_since_takes_dates_and_ages() -> None:
    assert since_time("2h", now=10_000) == 2_800
    assert since_time("1970-01-01T01:00:00+00:00", now=0) == 3600
    with pytest.raises(ValueError, match="give a date"):
        since_time("yesterday", now=0)


def test_the_writers_side_imports_nothing_heavy() -> None:
    heavy = ("pyarrow", "deltalake", "ray", "rich")
    code = f"import sys, cluster.log, cluster.log.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_steps_of_agents_are_shown_counted_and_carried(trivium, log: Log, tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "\x1b[31mthinking"}
    with log.writer("agents") as writer:
        writer.append_many([step(0, "model", message=message), step(1, "end", state="completed", answer="42")])
    shown = trivium("tail").output
    assert "clerk" in shown and "thinking" in shown and "run-1/1" in shown and "42" in shown and "\x1b" not in shown
    assert json.loads(trivium("stats", "--json").output)["steps"] == 2
    for form in ("jsonl", "parquet"):
        out = tmp_path / f"out.{form}"
        assert "2 rows" in trivium("export", "--out", str(out), "--format", form).output
        assert "0 records and 0 feedback imported, 2 known already" in trivium("import", str(out)).output
        other = Log(tmp_path / form)
        assert import_files(other, [out]).steps == 2
        assert list(other.entries()) == list(log.read())
    found = json.loads(trivium("stats", "--json").output)
    assert (found["records"], found["feedback"], found["steps"], found["table_rows"]) == (0, 0, 2, 2)
