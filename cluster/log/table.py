"""Compaction: from segments into one Delta table, exactly once, whatever is killed or loses power when.

deltalake fsyncs nothing, and after a power cut it takes an empty commit file for a commit of no rows. So the newest
version that counts is the one in `table/_mark.json`, which is written after everything that it needs is on disk:

    1. commit the new frames; the commit also says (segment, last frame) for each     killed here: the commit is dropped
    2. fsync the data files, the commit, their folders; read them back                       ... dropped
    3. write the mark                                                                        ... from here on it counts
    4. unlink segments that are finished and wholly in the table                             ... the rest next time

A commit above the mark never happened: nothing was unlinked on its strength, so the segments still hold all its rows.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import DeltaError

from cluster.log.files import Lock, OsFiles
from cluster.log.segments import LogSettings, Segment, SegmentReader, segments
from cluster.log.writer import LogUnavailable

SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("time", pa.float64(), nullable=False),
        ("session", pa.string()),
        ("alias", pa.string()),
        ("version", pa.string()),
        ("arm", pa.string()),
        ("source", pa.string()),
        ("score", pa.float64()),
        pa.field("body", pa.string(), nullable=False),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
    ]
)
KINDS = ("record", "feedback", "step")
COPIED = ("kind", "request_id", "time", "session", "alias", "version", "arm", "source", "score")
"""Columns that are keys of the entry; `body` is the whole entry, byte for byte as it was logged."""
BATCH_BYTES = 64 * 2**20
"""Bodies in one commit: bounds the memory that a long backlog takes."""
# Checkpoints and clean-up happen in `retain`, where they are brought to disk in the right order.
QUIET = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
WRITER = WriterProperties(compression="ZSTD")


@dataclass(frozen=True)
class Compaction:
    """What one compaction came to."""

    table_version: int
    """Durable: pin this one."""
    rows_added: int
    segments_retired: int


@dataclass(frozen=True, order=True)
class DataFile:
    """One Parquet file of the table."""

    first: float
    """`time` of its oldest row."""
    last: float
    path: str
    size: int


@dataclass
class View:
    """What is in segments but not in the table, at one moment."""

    table_version: int | None
    opened: list[tuple[Segment, BinaryIO, int]]
    """Segment, its open file, its first frame that is not in the table."""
    lag_bytes: int = 0

    @property
    def payloads(self) -> Iterator[bytes]:
        """Once only. Opened files stay readable when the compactor unlinks them."""
        for segment, file, start in self.opened:
            with file:
                for seq, payload in enumerate(SegmentReader(file, segment.name)):
                    if seq >= start:
                        self.lag_bytes += len(payload)
                        yield payload


@dataclass
class Batch:
    """Rows of one commit."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in SCHEMA.names})
    last: dict[str, int] = field(default_factory=dict)
    """Segment name to its last frame in here."""
    size: int = 0

    def add(self, segment: str, seq: int, payload: bytes) -> None:
        entry = json.loads(payload)
        for name in COPIED:
            self.columns[name].append(entry.get(name))
        self.columns["body"].append(payload.decode())
        self.columns["segment"].append(segment)
        self.columns["seq"].append(seq)
        self.last[segment] = seq
        self.size += len(payload)


def _matching(data: ds.Dataset, columns: tuple[str, ...], where: ds.Expression) -> Iterator[pa.RecordBatch]:
    """Arrow reads all columns of what statistics do not rule out: so first whether a part has any such row."""
    for fragment in data.get_fragments(filter=where):
        for part in fragment.split_by_row_group(where):
            if part.count_rows(filter=where):
                yield from part.to_batches(columns=list(columns), filter=where)


class Table:
    """`log/table`, and how segments get into it. Cheap to make; holds no file open.

    It remembers the version that it opened last, and its counts: those who look often look at the same one mostly.
    """

    def __init__(self, folder: Path, settings: LogSettings, files: OsFiles, own: Path) -> None:
        self._folder = folder
        self._own = own
        self._segments = own / "segments"
        self._path = folder / "table"
        self._log = self._path / "_delta_log"
        self._mark = self._path / "_mark.json"
        self._settings = settings
        self._files = files
        self._opened: DeltaTable | None = None
        self._counted: tuple[int, dict[str, int]] | None = None

    # Reading

    def version(self) -> int | None:
        """The newest version that is on disk for good."""
        try:
            return json.loads(self._mark.read_bytes())["version"]
        except FileNotFoundError:
            return None

    def view(self, writers: str = "") -> View:
        """Segments are opened first and the mark read second: what is retired in between is then in the table.

        `writers`: only of those whose names begin so.
        """
        opened: list[tuple[Segment, BinaryIO]] = []
        for segment in segments(self._segments):
            if segment.writer.startswith(writers):
                with contextlib.suppress(FileNotFoundError):
                    opened.append((segment, segment.path.open("rb")))
        version = self.version()
        done = {} if version is None else self._done(self._open(version), [segment for segment, _ in opened])
        return View(version, [(segment, file, done.get(segment.name, -1) + 1) for segment, file in opened])

    def bodies(self, version: int | None = None, since: float = -math.inf) -> Iterator[str]:
        """Every entry's JSON at a version, in an order that only depends on the version."""
        return (body for (body,) in self.rows(("body",), version, since))

    def rows(
        self,
        columns: tuple[str, ...],
        version: int | None = None,
        since: float = -math.inf,
        where: ds.Expression | None = None,
    ) -> Iterator[tuple]:
        """Some columns at a version (None: the newest), as tuples, of rows whose `time` is at least `since`.

        With `where`, only of the rows that it holds for; columns are read only where there are any.
        """
        newest = self.version()
        version = newest if version is None else version
        if version is None:
            return
        if newest is None or version > newest:
            raise ValueError(f"the log's table has no version {version}; the newest is {newest}")
        try:
            data, recent = self._dataset(self._open(version)), ds.field("time") >= since
            for batch in (
                data.to_batches(columns=list(columns), filter=recent)
                if where is None
                else _matching(data, columns, recent & where)
            ):
                yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
        except (FileNotFoundError, DeltaError):
            raise ValueError(
                f"version {version} of the log's table is no longer kept; read {newest}, or raise keep_versions_hours"
            ) from None

    def count(self, version: int | None) -> dict[str, int]:
        """Rows of each kind."""
        if version is None:
            return dict.fromkeys(KINDS, 0)
        if self._counted is None or self._counted[0] != version:
            data = self._dataset(self._open(version))
            self._counted = version, {kind: data.count_rows(filter=ds.field("kind") == kind) for kind in KINDS}
        return self._counted[1]

    # Compacting

    def compact(self) -> Compaction:
        """One turn of the steps above. Raises `LogUnavailable` when the disk is full or fails; nothing is lost."""
        with self.exclusive() as locks:
            table = self.recover()
            dead = self._dead_writers(locks)
            # In this order: who is dead, what there is, what is in it. A segment with a successor, or without a living
            # writer, is then read after its last change.
            found = segments(self._segments)
            latest = {segment.writer: segment.index for segment in found}
            readers: dict[Segment, SegmentReader] = {}
            rows = 0
            for batch in self._batches(table, found, readers):
                table = self._commit(batch)
                rows += len(batch.columns["seq"])
            retired = 0
            for segment, reader in readers.items():
                if segment.writer in dead or reader.finished or segment.index < latest[segment.writer]:
                    self._retire(segment, reader)
                    retired += 1
            for writer in dead:
                self._bury(self._segments / writer)
            return Compaction(table.version(), rows, retired)

    def _batches(
        self, table: DeltaTable, found: list[Segment], readers: dict[Segment, SegmentReader]
    ) -> Iterator[Batch]:
        """Frames that the table does not have. Fills `readers` with what was seen of each segment."""
        done = self._done(table, found)
        batch = Batch()
        for segment in found:
            try:
                file = segment.path.open("rb")
            except FileNotFoundError:  # its writer could not begin it after all
                continue
            with file:
                reader = SegmentReader(file, segment.name)
                for seq, payload in enumerate(reader):
                    if seq > done.get(segment.name, -1):
                        batch.add(segment.name, seq, payload)
                    if batch.size >= BATCH_BYTES:
                        yield batch
                        batch = Batch()
                readers[segment] = reader
        if batch.last:
            yield batch

    def _commit(self, batch: Batch) -> DeltaTable:
        transactions = [Transaction(segment, seq) for segment, seq in batch.last.items()]
        write_deltalake(
            str(self._path),
            pa.table(batch.columns, schema=SCHEMA),
            mode="append",
            writer_properties=WRITER,
            commit_properties=CommitProperties(app_transactions=transactions),
            post_commithook_properties=QUIET,
        )
        return self.settle(len(batch.columns["seq"]))

    def settle(self, added: int | None = None) -> DeltaTable:
        """Steps 2 and 3 for every commit above the mark. `added`: rows that must read back from the new files."""
        before = self.version()
        read_back = 0
        for version in self._commits():
            if before is None or version > before:
                commit = self._log / f"{version:020}.json"
                for action in map(json.loads, commit.read_text().splitlines()):
                    if "add" in action:
                        data = self._path / action["add"]["path"]
                        self._files.sync_file(data)
                        read_back += pq.read_metadata(data).num_rows
                self._files.sync_file(commit)
        if added is not None and read_back != added:
            raise LogUnavailable(f"the log's table took {read_back} of {added} rows; they stay in the segments")
        # Before the mark, not with it: POSIX does not order the names within one folder either.
        for folder in (self._log, self._path, self._folder):
            self._files.sync_folder(folder)
        table = DeltaTable(str(self._path))
        self._write_mark(table.version(), self.checkpointed())
        return table

    def recover(self) -> DeltaTable:
        """The table at its mark, rid of what a crash left above it; made if there is none."""
        mark, commits = self.version(), self._commits()
        if mark is None and commits not in ([], [0]):
            raise ValueError(f'{self._mark} is gone; write {{"version": N}} there, N being the newest whole version')
        if mark is not None and mark not in commits:
            raise ValueError(
                f"{self._path} lost version {mark}; restore it, or move it away: segments then begin a new one"
            )
        for version in sorted(commits, reverse=True):
            if mark is None or version > mark:
                self._files.unlink(self._log / f"{version:020}.json")
        self._drop_torn_checkpoints()
        if mark is None:
            self._files.make_folder(self._path)
            DeltaTable.create(
                str(self._path),
                SCHEMA,
                configuration={
                    # Without this the statistics would copy bodies into the log of the table, out of retention's reach.
                    "delta.dataSkippingStatsColumns": "kind,time",
                    "delta.logRetentionDuration": f"interval {max(self._settings.keep_versions_hours, 1):.0f} hours",
                },
                post_commithook_properties=QUIET,
            )
            return self.settle()
        self._files.sync_folder(self._log)
        return self._open(mark)

    def checkpoint(self, table: DeltaTable) -> None:
        """Sum the commits up in one file, so that the table opens fast, and drop those that are too old to read."""
        table.create_checkpoint()
        for path in (*self._checkpoints(), self._log / "_last_checkpoint"):
            self._files.sync_file(path)
        self._files.sync_folder(self._log)
        self._write_mark(table.version(), table.version())
        table.cleanup_metadata()

    def checkpointed(self) -> int:
        """Version of the newest checkpoint that is on disk for good, -1 if there is none."""
        try:
            return json.loads(self._mark.read_bytes())["checkpoint"]
        except FileNotFoundError:
            return -1

    def _drop_torn_checkpoints(self) -> None:
        whole = self.checkpointed()
        for path in self._checkpoints():
            if int(path.name.split(".")[0]) > whole:
                self._files.unlink(self._log / "_last_checkpoint")
                self._files.unlink(path)

    def _checkpoints(self) -> list[Path]:
        return list(self._log.glob("*.checkpoint*.parquet"))

    def _write_mark(self, version: int, checkpoint: int) -> None:
        self._files.write(self._mark, json.dumps({"version": version, "checkpoint": checkpoint}).encode())

    def _dead_writers(self, locks: contextlib.ExitStack) -> set[str]:
        """Writers whose lock is free. It is kept until the compaction ends."""
        dead = set()
        for writer in {segment.name for segment in self._writer_folders()}:
            lock = self._files.lock(self._segments / writer / "lock", wait=False)
            if lock:
                locks.enter_context(lock)
                dead.add(writer)
        return dead

    def _writer_folders(self) -> list[Path]:
        """Folders of writers; those that were never finished being made count after an hour."""
        if not self._segments.is_dir():
            return []
        an_hour_ago = time.time() - 3600
        return [p for p in self._segments.iterdir() if not p.name.startswith(".") or p.stat().st_mtime < an_hour_ago]

    def _retire(self, segment: Segment, reader: SegmentReader) -> None:
        """Remove a segment whose frames are all in the table; put it aside if more follows that is no frame."""
        if reader.tail.strip(b"\0"):
            self._files.make_folder(self._own / "damaged")
            self._files.rename(segment.path, self._own / "damaged" / segment.name.replace("/", "-"))
        else:
            self._files.unlink(segment.path)

    def _bury(self, writer: Path) -> None:
        """Remove the folder of a dead writer once its last segment is gone."""
        if not any(path.name != "lock" for path in writer.iterdir()):
            self._files.unlink(writer / "lock")
            self._files.remove_folder(writer)

    # Between the two

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[contextlib.ExitStack]:
        """The compactor's lock, and a place for more. Turns failures of the disk into `LogUnavailable`."""
        try:
            self._files.make_folder(self._folder)
            with contextlib.ExitStack() as locks:
                lock: Lock | None = self._files.lock(self._folder / "compact.lock")
                assert lock
                locks.enter_context(lock)
                yield locks
        except (OSError, DeltaError) as error:
            full = shutil.disk_usage(self._folder).free < 2**20
            raise LogUnavailable(
                f"the log's table cannot be written ({'the disk is full' if full else error})"
            ) from error

    def _commits(self) -> list[int]:
        """Versions whose commit file is there."""
        if not self._log.is_dir():
            return []
        return sorted(int(path.stem) for path in self._log.glob("*.json") if path.stem.isdigit())

    def _open(self, version: int) -> DeltaTable:
        opened = self._opened
        if opened is None or opened.version() != version:
            self._opened = opened = DeltaTable(str(self._path), version=version)
        return opened

    def _done(self, table: DeltaTable, found: list[Segment]) -> dict[str, int]:
        """Last frame in the table, by segment."""
        done = {segment.name: table.transaction_version(segment.name) for segment in found}
        return {name: seq for name, seq in done.items() if seq is not None}

    def data_files(self, table: DeltaTable) -> list[DataFile]:
        """What the table consists of, oldest first."""
        actions = pa.table(table.get_add_actions(flatten=True))
        if not actions.num_rows:
            return []
        rows = actions.select(["min.time", "max.time", "path", "size_bytes"]).to_pylist()
        return sorted(DataFile(*row.values()) for row in rows)

    def dataset(self, files: list[DataFile]) -> ds.Dataset:
        return ds.dataset([str(self._path / file.path) for file in files], schema=SCHEMA, format="parquet")

    def _dataset(self, table: DeltaTable) -> ds.Dataset:
        return self.dataset(self.data_files(table))
