"""Import and export of files: all or nothing, never twice, and there and back again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.log import Log
from cluster.log.exchange import Format, export, import_files
from tests.cluster.log.entries import everything, feedback, ids, record

ROWS = [
    {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]}
    for n in range(1200)
]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_fine_tuning_file_is_imported_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    path = jsonl(tmp_path / "tune.jsonl", ROWS)
    done = import_files(log, [path])
    assert (done.records, done.feedback, done.known) == (1200, 1200, 0)
    assert (log.stats().records, log.stats().feedback) == (1200, 1200)
    again = import_files(log, [path, path])
    assert (again.records, again.feedback, again.known) == (0, 0, 4800)
    assert (log.stats().records, log.stats().feedback) == (1200, 1200)


def test_a_broken_line_imports_nothing_of_any_file(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    good = jsonl(tmp_path / "good.jsonl", ROWS)
    bad = jsonl(tmp_path / "bad.jsonl", ROWS)
    bad.write_text(bad.read_text() + '{"messages": []}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 1201: messages must be a list"):
        import_files(log, [good, bad])
    assert everything(log) == []


def test_nested_parquet_is_the_same_as_jsonl(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    tool = {"type": "function", "function": {"name": "f", "description": "what it does"}}
    rows: list[dict] = [*ROWS[:3], {"messages": asked, "tools": [tool]}]
    pq.write_table(pa.Table.from_pylist([rows[-1], *rows[:-1]]), tmp_path / "plain.parquet")
    import_files(log, [jsonl(tmp_path / "a.jsonl", rows)])
    done = import_files(log, [tmp_path / "plain.parquet"])
    assert (done.records, done.known) == (0, 8)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_what_is_exported_can_be_imported_elsewhere_and_is_the_same(tmp_path: Path, form: Format) -> None:
    log, other = Log(tmp_path / "log"), Log(tmp_path / "other")
    entries = [
        record(1),
        record(2),
        feedback(1, 0.0),
        feedback(1, 1.0, time=2_000_009.0),
        feedback(2, 0.5, comment="so so"),
    ]
    with log.writer("w") as writer:
        writer.append_many(entries)
    out = tmp_path / f"out.{form}"
    assert export(log, out, form) == 5
    assert out.stat().st_mode & 0o077 == 0, "it holds what people wrote"
    import_files(other, [out])
    assert sorted(everything(other), key=str) == sorted(entries, key=str)
    assert import_files(log, [out]).known == 5


def test_the_openai_form_holds_corrections_and_liked_answers(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    better = {"role": "assistant", "content": "better"}
    with log.writer("w") as writer:
        writer.append_many([record(n, text=f"question {n}") for n in range(4)])
        writer.append_many([feedback(1, 0.0), feedback(2, 0.0, correction=better), feedback(3, 1.0)])
    assert export(log, tmp_path / "tune.jsonl", "openai") == 3
    rows = [json.loads(line) for line in (tmp_path / "tune.jsonl").read_text().splitlines()]
    assert [(r["messages"][0]["content"], r["messages"][-1]["content"]) for r in rows] == [
        ("question 0", "hi"),
        ("question 2", "better"),
        ("question 3", "hi"),
    ]
    other = Log(tmp_path / "other")
    assert import_files(other, [tmp_path / "tune.jsonl"]).records == 3


@pytest.mark.parametrize("form", get_args(Format))
def test_an_export_may_begin_at_a_time_and_may_be_empty(tmp_path: Path, form: Format) -> None:
    log = Log(tmp_path / "log")
    with log.writer("w") as writer:
        writer.append_many([record(1, time=10), record(2, time=20)])
    assert export(log, tmp_path / "some", form, since=15) == 1
    assert export(log, tmp_path / "none", form, since=25) == 0
    assert import_files(Log(tmp_path / "other"), [tmp_path / "none"]).records == 0
    assert ids(log.read()) == ["req-1", "req-2"]
