from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pipelines import rows
from pipelines.artifacts import Row, read_rows
from tests.pipelines.logs import TOOLS, call, said

ROWS = [
    Row(f"r{n}", [{"role": "user", "content": f"“{n}”"}, said(str(n))], TOOLS, [f"q{n}"], "log", f"s{n}", "text")
    for n in range(2500)
]


def digest(folder: Path, *files: list[Row]) -> str:
    made = [rows.write(folder / f"{n}.parquet", [rows.columns(row) for row in file]) for n, file in enumerate(files)]
    return rows.over([digests for file in made for digests in file])


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    answer = call("play", song="Hurt")
    given = [*ROWS[:3], replace(ROWS[3], messages=[answer], record_ids=[], options={"tool_choice": "required"})]
    rows.write(tmp_path / "train" / "a.parquet", [rows.columns(row) for row in given])
    assert read_rows(tmp_path / "train") == given


def test_the_digest_is_that_of_the_rows_whatever_their_order_and_files(tmp_path: Path) -> None:
    whole = digest(tmp_path / "one", ROWS)
    assert digest(tmp_path / "two", ROWS[1200:], [], ROWS[:1200]) == whole
    assert digest(tmp_path / "three", ROWS[1:]) != whole


def test_every_column_counts_for_the_digest(tmp_path: Path) -> None:
    changes = {
        "row_id": "x",
        "messages": [said("x")],
        "tools": [json.loads(json.dumps(TOOLS[0]).replace("city", "town"))],
        "record_ids": ["x"],
        "origin": "replay",
        "session": "x",
        "slice": "x",
        "options": {"tool_choice": "x"},
        "rejected": said("x"),
    }
    assert set(changes) == set(rows.schema().names)
    seen = {digest(tmp_path / name, [replace(ROWS[0], **{name: value})]) for name, value in changes.items()}
    assert len(seen | {digest(tmp_path / "as it is", ROWS[:1])}) == len(changes) + 1
