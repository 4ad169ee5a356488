"""In place of collect and curate, for pre-training: documents from files, and some of them only to measure on.

Files of JSON lines or Parquet in the form of open corpora: one document a row, its text in one column, and perhaps
where it comes from in another. A document that is held out is not trained on, however often the files have it.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipelines.artifacts import Dataset, Row, columns, dataset_digest, row_schema, write_rows
from pipelines.recipe import DocumentSettings
from pipelines.steps import Run, manifest

CODE = 1
"""Raised when the same inputs give another output than before."""
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
HELD_CHARACTERS = 2000
"""Beginning of a held-out document that is measured on: an engine takes no whole book."""


def documents(run: Run) -> Dataset:
    """The recipe's documents as a dataset. Raises `ValueError` for files that are not there or have no text."""
    settings = run.recipe.documents
    assert settings
    files = _files(settings)
    inputs = {
        "documents": settings.model_dump(mode="json"),
        "files": [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files],
        "code": CODE,
    }
    folder = run.step("documents", inputs, lambda out: _documents(settings, files, out))
    made = manifest(folder)
    run.report("documents", f"{made['rows']:,} documents, {made['holdout_rows']:,} held out")
    if made["dropped"]:
        run.say(f"{'':<22}left out: {made['dropped']:,} lines without text, or without a JSON object")
    return Dataset(folder, made["digest"], made["rows"], 0, made["holdout_rows"], None)


def _files(settings: DocumentSettings) -> list[Path]:
    files = sorted(
        path for name in glob.glob(settings.path, recursive=True) if (path := Path(name).absolute()).is_file()
    )
    if not files:
        raise ValueError(f"documents.path: there is no file {settings.path} where the cycle runs")
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1 or None in kinds:
        raise ValueError(
            f"documents.path: {settings.path} must name files of one kind, {', '.join(JSON_LINES)} or .parquet"
        )
    return files


def _kind(file: Path) -> str | None:
    return "parquet" if file.suffix == ".parquet" else "json" if file.name.endswith(JSON_LINES) else None


def _documents(settings: DocumentSettings, files: list[Path], out: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import ray

    paths = [str(file) for file in files]
    lines = _kind(files[0]) == "json"
    read = (
        ray.data.read_text(paths)
        if lines
        else ray.data.read_parquet(paths).select_columns(_columns(files[0], settings))
    )
    if settings.limit:
        read = read.limit(settings.limit)

    def work(batch: pa.Table) -> pa.Table:
        given = [_parsed(row["text"]) if lines else row for row in batch.to_pylist()]
        found = [prepare(line, settings) for line in given]
        return pa.Table.from_pylist([columns(row) if row else {} for row in found], row_schema())

    prepared = read.map_batches(work, batch_format="pyarrow", batch_size=None).materialize()
    found = [name for block in ray.get(prepared.select_columns(["row_id"]).to_arrow_refs()) for name in _ids(block)]
    ids = sorted({name for name in found if name})
    if len(ids) < 2:
        raise ValueError(
            f"{settings.path} holds {len(ids)} documents with text in {settings.field!r}; "
            "name their column in documents.field, or give more of them"
        )
    held = pa.array(ids[: min(settings.holdout, max(1, len(ids) // 10))])  # digests are in no order of contents

    def trained(batch: pa.Table) -> pa.Table:
        usable = pc.is_valid(batch["row_id"])
        return batch.filter(pc.and_(usable, pc.invert(pc.is_in(batch["row_id"], value_set=held))))

    def measured(batch: pa.Table) -> pa.Table:
        return batch.filter(pc.is_in(batch["row_id"], value_set=held))

    prepared.map_batches(trained, batch_format="pyarrow", batch_size=None).write_parquet(str(out / "train"))
    blocks = ray.get(prepared.map_batches(measured, batch_format="pyarrow", batch_size=None).to_arrow_refs())
    rows = {row["row_id"]: row for block in blocks for row in block.to_pylist()}
    write_rows(out / "holdout" / "holdout.parquet", [_beginning(rows[name]) for name in sorted(rows)])
    kept = [name for file in (out / "train").glob("*.parquet") for name in _slices(file)]
    return {
        "digest": dataset_digest(out),
        "rows": len(kept),
        "holdout_rows": len(rows),
        "settings": settings.model_dump(mode="json"),
        "dropped": found.count(None),
        "slices": dict(sorted(Counter(kept).items())),
    }


def prepare(line: dict[str, Any], settings: DocumentSettings) -> Row | None:
    """A row of a file as a row of the dataset; None if there is no text in it."""
    text = line.get(settings.field)
    if not isinstance(text, str) or not text.strip():
        return None
    name = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
    source = line.get(settings.source) if settings.source else None
    return Row(
        row_id=name,
        messages=[{"role": "assistant", "content": text}],
        tools=[],
        record_ids=[],
        origin="document",
        session=name,
        slice=str(source or "document"),
    )


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _columns(file: Path, settings: DocumentSettings) -> list[str]:
    import pyarrow.parquet as parquet

    have = parquet.read_schema(file).names
    if settings.field not in have:
        raise ValueError(f"documents.field: {file.name} has no column {settings.field!r}; it has {', '.join(have)}")
    return [name for name in (settings.field, settings.source) if name in have]  # type: ignore[misc]


def _ids(block: Any) -> list[str | None]:
    return block.column("row_id").to_pylist() if block.num_rows else []


def _slices(file: Path) -> list[str]:
    import pyarrow.parquet as parquet

    return parquet.read_table(file, columns=["slice"]).column("slice").to_pylist()


def _beginning(row: dict[str, Any]) -> dict[str, Any]:
    messages = json.loads(row["messages"])
    messages[0]["content"] = messages[0]["content"][:HELD_CHARACTERS]
    return {**row, "messages": json.dumps(messages, ensure_ascii=False)}
