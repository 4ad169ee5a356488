"""Retention: what is too old or too much leaves the table, and in time the disk. Segments are never touched."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
from deltalake import DeltaTable

from cluster.log.segments import LogSettings
from cluster.log.table import QUIET, WRITER, DataFile, Table

SMALL_FILES = 32
"""This many small files are merged: each compaction adds one, and opening a file costs more than reading it."""
SMALL_BYTES = 32 * 2**20
MERGED_BYTES = 128 * 2**20
CHECKPOINT_COMMITS = 50
"""Commits between checkpoints."""
ROOM = 0.9
"""A table that outgrew `keep_bytes` is cut to this share of it, so that not every call has to cut."""


def retain(table: Table, folder: Path, settings: LogSettings, now: float) -> int:
    """Delete rows by age and by size, merge small files, checkpoint, vacuum. Returns how many rows were deleted."""
    with table.exclusive():
        delta = table.recover()
        deleted = 0
        cutoff = max(_by_age(table.data_files(delta), settings, now), _by_size(table, delta, settings))
        if cutoff > float("-inf"):
            found = delta.delete(f"time <= {cutoff!r}", writer_properties=WRITER, post_commithook_properties=QUIET)
            deleted = found["num_deleted_rows"]
            delta = table.settle()
        if sum(file.size < SMALL_BYTES for file in table.data_files(delta)) > SMALL_FILES:
            delta.optimize.compact(target_size=MERGED_BYTES, writer_properties=WRITER, post_commithook_properties=QUIET)
            delta = table.settle()
        if delta.version() - table.checkpointed() > CHECKPOINT_COMMITS:
            table.checkpoint(delta)
        _vacuum(table, delta, settings)
        forget_damaged(folder, settings, now)
    return deleted


def _by_age(files: list[DataFile], settings: LogSettings, now: float) -> float:
    """Newest `time` that is too old. Acts only once a row is an hour over, or each call would rewrite a file."""
    if settings.keep_days is None or not files:
        return float("-inf")
    cutoff = now - settings.keep_days * 86400
    return cutoff if files[0].first < cutoff - min(3600, settings.keep_days * 864) else float("-inf")


def _by_size(table: Table, delta: DeltaTable, settings: LogSettings) -> float:
    """Newest `time` of what has to go for the table to fit."""
    cutoff = float("-inf")
    files = sorted(table.data_files(delta), key=lambda file: file.last)
    size = sum(file.size for file in files)
    if settings.keep_bytes is None or size <= settings.keep_bytes:
        return cutoff
    over = size - settings.keep_bytes * ROOM
    for file in files:
        if file.size > over:
            # The file in which the limit falls: its rows take the room that their bodies' lengths say.
            columns = {"time": pc.field("time"), "size": pc.binary_length(pc.field("body"))}
            rows = table.dataset([file]).to_table(columns=columns)
            rows = rows.sort_by("time")
            share = pc.divide(pc.cumulative_sum(pc.cast(rows["size"], "float64")), float(pc.sum(rows["size"]).as_py()))
            at = pc.index(pc.greater_equal(share, over / file.size), True).as_py()
            return max(cutoff, rows["time"][at].as_py())
        cutoff, over = file.last, over - file.size
    return cutoff


def _vacuum(table: Table, delta: DeltaTable, settings: LogSettings) -> None:
    """Remove files that no version within `keep_versions_hours` needs. Two commits, so only if there are any."""

    def vacuum(dry_run: bool) -> list[str]:
        hours = round(settings.keep_versions_hours)
        return delta.vacuum(
            hours, dry_run, enforce_retention_duration=False, post_commithook_properties=QUIET, full=True
        )

    if vacuum(dry_run=True):
        vacuum(dry_run=False)
        table.settle()


def forget_damaged(folder: Path, settings: LogSettings, now: float) -> None:
    """What was put aside is somebody's data too, and ages like it."""
    if settings.keep_days is not None:
        for path in folder.glob("damaged/*"):
            if path.stat().st_mtime < now - settings.keep_days * 86400:
                path.unlink()
