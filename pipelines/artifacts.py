"""What the steps of a cycle hand on: small frozen values that point at folders under state.

The steps, each a file of its own, fit together like this (`pipelines/cycle.py` has it on one screen):

    collect(run)                     -> Snapshot
    curate(run, snapshot)            -> Dataset
    train(run, dataset)              -> Candidate
    evaluate(run, candidate, dataset) -> Evaluation
    judge(evaluation, recipe.gate)   -> Verdict      (pure: cluster.records.Verdict)
    publish(run, candidate, verdict)

`run` (`pipelines.steps.Run`) carries the recipe and the settings, keeps the record of what is done, and addresses a
step's output by the hash of what went into it: `run.step("train", inputs, make)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.records import Version

if TYPE_CHECKING:
    import pyarrow as pa


JSON_COLUMNS = ("messages", "tools", "options", "rejected")
"""Columns of a dataset's files that hold JSON."""


@dataclass(frozen=True)
class Snapshot:
    """The log's answered requests of one window with the feedback on them, at one version of the table."""

    path: Path
    """Folder with `*.parquet` and `manifest.json`."""
    table_version: int
    rows: int


@dataclass(frozen=True)
class Dataset:
    """Rows to train on, rows to replay against forgetting, and the holdout, which is in neither.

    `path` holds `train/*.parquet` and `holdout/*.parquet` with the columns of `Row`, and `manifest.json`.
    """

    path: Path
    digest: str
    """SHA-256 over the contents of all rows; the same whatever the order of rows and the number of workers."""
    rows: int
    """Training rows, replay aside."""
    replay_rows: int
    holdout_rows: int
    table_version: int | None
    """None where the rows are documents."""

    def train(self) -> list[Row]:
        return read_rows(self.path / "train")

    def holdout(self) -> list[Row]:
        return read_rows(self.path / "holdout")


@dataclass(frozen=True)
class Row:
    """One conversation; its last message is the assistant's target (in the holdout: the reference answer)."""

    row_id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    record_ids: list[str]
    """Request ids of the log's records that this row came from; empty for replay."""
    origin: str
    """`log`, `replay` or `document`: that is one message of the assistant's."""
    session: str
    slice: str
    """The tool that the target calls first, or `text`; of a document: its source."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the request said about the form of prompt and answer (`curate.OPTIONS`)."""
    rejected: dict[str, Any] | None = None
    """The answer that was given, where the target is its correction."""


@dataclass(frozen=True)
class Candidate:
    """A new version in the registry that nobody is served by yet."""

    version: Version
    metrics: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """One row of the holdout as both versions answered it; scores from 0 to 1."""

    row_id: str
    slice: str
    session: str
    candidate: float
    champion: float
    well_formed: bool
    """Whether the candidate's answer was one: finished, and its tool calls name offered tools with JSON arguments."""


@dataclass(frozen=True)
class Evaluation:
    """The whole holdout as candidate and champion answered it."""

    path: Path
    rows: list[Scored]
    candidate: str
    """Version id."""
    champion: str
    """Version id."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """For `candidate` and `champion`: means of the score and of the scorer's own parts, such as `tool_accuracy`."""


def row_schema() -> pa.Schema:
    """The columns of a dataset's files."""
    import pyarrow as pa

    text = ("row_id", "messages", "tools", "origin", "session", "slice", "options", "rejected")
    return pa.schema([*((name, pa.string()) for name in text), ("record_ids", pa.list_(pa.string()))])


def columns(row: Row) -> dict[str, Any]:
    """A row in those columns."""
    import json

    given = {name: getattr(row, name) for name in JSON_COLUMNS}
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in given.items() if value is not None}
    return {**vars(row), **texts}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """One file of a dataset from rows in its columns."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, row_schema()), path)


def dataset_digest(folder: Path) -> str:
    """Over all rows of both parts; the same for any order of rows and any number of files."""
    import pyarrow.parquet as parquet

    from pipelines.steps import digest

    parts = [sorted((folder / part).glob("*.parquet")) for part in ("train", "holdout")]
    return digest(
        [sorted(digest(row) for file in files for row in parquet.read_table(file).to_pylist()) for files in parts]
    )


def read_rows(folder: Path) -> list[Row]:
    """All rows of a dataset's folder in the order of their ids, which no number of workers changes."""
    return sorted(_rows(folder), key=lambda row: row.row_id)


def _rows(folder: Path) -> Iterator[Row]:
    import json

    import pyarrow.parquet as parquet

    for file in sorted(folder.glob("*.parquet")):
        for row in parquet.read_table(file).to_pylist():
            parsed = {name: json.loads(row[name]) for name in JSON_COLUMNS if row.get(name) is not None}
            yield Row(**{**row, **parsed})
