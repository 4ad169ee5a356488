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

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.records import Version

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

    def sampled(self) -> dict[str, list[dict[str, Any]]]:
        """By row: `request_id`, `version`, `token_ids` and `logprobs` of each of its run's turns, as the engine gave
        them. Only of training rows whose journal has them, and in which nothing had to be scrubbed."""
        import pyarrow.parquet as parquet

        tables = (parquet.read_table(file) for file in sorted((self.path / "sampled").glob("*.parquet")))
        return {row["row_id"]: json.loads(row["sampled"]) for table in tables for row in table.to_pylist()}


@dataclass(frozen=True)
class Row:
    """One conversation; its last message is the assistant's target (in the holdout: the reference answer)."""

    row_id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    record_ids: list[str]
    """Request ids of the log's records that this row came from; empty for replay."""
    origin: str
    """`log`, `run` (of an agent), `replay` or `document`: that is one message of the assistant's."""
    session: str
    slice: str
    """The tool that the target calls first, or `text`; of a run: `agent:NAME`; of a document: its source."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the request said about the form of prompt and answer (`prepare.OPTIONS`)."""
    rejected: dict[str, Any] | None = None
    """The answer that was given, where the target is its correction; of two runs, the one that led to less."""

    @property
    def learnt(self) -> list[int]:
        """Places of the messages to learn: the last one, and those of the assistant's before it with `weight` 1 (the
        form of OpenAI's fine-tuning files)."""
        *before, _ = self.messages
        marked = [n for n, said in enumerate(before) if said.get("role") == "assistant" and said.get("weight") == 1]
        return [*marked, len(before)]

    def turns(self) -> list[Row]:
        """A row for each message to learn, with it as the last one: what can be asked and measured by itself."""
        messages, places = [unweighed(message) for message in self.messages], self.learnt
        return [
            replace(
                self,
                row_id=f"{self.row_id}:{place}" if len(places) > 1 else self.row_id,
                messages=messages[: place + 1],
                rejected=self.rejected if place == places[-1] else None,
            )
            for place in places
        ]


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


def unweighed(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its mark: which ones are learnt is our word, and nobody else's."""
    return {name: value for name, value in message.items() if name != "weight"} if "weight" in message else message


def parsed(row: dict[str, Any]) -> Row:
    """A row of a dataset's files."""
    return Row(**{**row, **{name: json.loads(row[name]) for name in JSON_COLUMNS if row.get(name) is not None}})


def read_rows(folder: Path) -> list[Row]:
    """All rows of a dataset's folder in the order of their ids, which no number of workers changes."""
    return sorted(_rows(folder), key=lambda row: row.row_id)


def _rows(folder: Path) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    for file in sorted(folder.glob("*.parquet")):
        yield from map(parsed, parquet.read_table(file).to_pylist())
