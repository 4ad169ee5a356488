"""Import and export of whole files: all of a file or nothing, the same thing never twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.log.entries import decode
from cluster.log.files import OsFiles
from cluster.log.formats import SOURCE, example, key, read
from cluster.log.store import Log
from cluster.records import Entry, Feedback, Message, Record

Format = Literal["jsonl", "parquet", "openai"]
BATCH = 512
"""Entries that share an fsync, at least."""


@dataclass(frozen=True)
class Imported:
    """What an import came to."""

    records: int = 0
    feedback: int = 0
    steps: int = 0
    known: int = 0
    """Left out, because the log has them already."""


def import_files(log: Log, paths: Sequence[Path], alias: str = "assistant") -> Imported:
    """Bring files into the log. Raises `ValueError` naming file and line; then nothing of any of them was imported."""
    now = time.time()
    # Read twice, first to the end: files may be larger than memory, and a broken last line must stop it all.
    for path in paths:
        for _ in read(path, alias, now):
            pass
    counts = {"record": 0, "feedback": 0, "step": 0, "known": 0}
    files = OsFiles()
    files.make_folder(log.folder)
    lock = files.lock(log.folder / "import.lock")
    assert lock
    with lock, log.writer("import") as writer:
        known = _known(log)
        batch: list[Entry] = []
        for entry in (entry for path in paths for entry in read(path, alias, now)):
            if key(entry) in known:
                counts["known"] += 1
                continue
            known.add(key(entry))
            counts[entry.kind] += 1
            batch.append(entry)
            if len(batch) == BATCH:
                writer.append_many(batch)
                batch.clear()
        writer.append_many(batch)
    return Imported(counts["record"], counts["feedback"], counts["step"], counts["known"])


def export(log: Log, out: Path, form: Format, since: float = float("-inf")) -> int:
    """Write what the log holds to one file, which appears when it is whole. Returns the number of rows."""
    version = log.compact().table_version
    # For this user only: it holds what people wrote.
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            if form == "parquet":
                rows = _write_parquet(log, version, since, file)
            else:
                rows = 0
                for line in _lines(log, version, form, since):
                    file.write(line.encode() + b"\n")
                    rows += 1
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _known(log: Log) -> set[tuple[str, str, str | None, float | None]]:
    """Keys (`formats.key`) of everything in the log."""
    version = log.compact().table_version
    known: set[tuple[str, str, str | None, float | None]] = set()
    for kind, request_id, source, stamp in log.table().rows(("kind", "request_id", "source", "time"), version):
        known.add((kind, request_id, source, stamp if kind == "feedback" and source != SOURCE else None))
    return known


def _lines(log: Log, version: int, form: Format, since: float) -> Iterator[str]:
    bodies = log.table().bodies(version, since)
    if form == "jsonl":
        yield from bodies
        return
    opinions: dict[str, dict[str, Feedback]] = {}
    for entry in log.read(version):
        if isinstance(entry, Feedback):
            opinions.setdefault(entry.request_id, {})[entry.source] = entry
    for entry in map(decode, bodies):
        if isinstance(entry, Record) and entry.status == 200 and not entry.disconnected:
            good, correction = _judge(list(opinions.get(entry.request_id, {}).values()))
            row = example(entry, correction) if good else None
            if row:
                yield json.dumps(row, ensure_ascii=False)


def _judge(opinions: list[Feedback]) -> tuple[bool, Message | None]:
    """Whether the record is an example to follow, and the correction if somebody gave one: the newest of them."""
    newest_first = sorted(opinions, key=lambda opinion: opinion.time, reverse=True)
    correction = next((opinion.correction for opinion in newest_first if opinion.correction), None)
    mean = sum(opinion.score for opinion in opinions) / len(opinions) if opinions else 1
    return bool(correction) or mean >= 0.5, correction


def _write_parquet(log: Log, version: int, since: float, file: Any) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cluster.log.table import COPIED, SCHEMA

    names = (*COPIED, "body")
    schema = pa.schema([SCHEMA.field(name) for name in names])
    rows = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        batch: list[tuple] = []
        for row in log.table().rows(names, version, since):
            batch.append(row)
            if len(batch) == 1024:
                writer.write_table(pa.table([list(c) for c in zip(*batch, strict=True)], schema=schema))
                rows, batch = rows + len(batch), []
        if batch:
            writer.write_table(pa.table([list(c) for c in zip(*batch, strict=True)], schema=schema))
    return rows + len(batch)
