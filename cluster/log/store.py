"""The log of one state folder: writers on one side, the table on the other, and one view over both."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.log.entries import decode
from cluster.log.files import OsFiles
from cluster.log.segments import LogSettings, SegmentWriter
from cluster.log.writer import Writer
from cluster.records import Entry
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.log.table import Compaction, Table


@dataclass(frozen=True)
class LogStats:
    """What is in the log now."""

    records: int
    """Answered requests, compacted or not."""
    feedback: int
    table_version: int | None
    """None before the first compaction."""
    table_rows: int
    lag_entries: int
    """On disk in segments, but not yet in the table."""
    lag_bytes: int
    segments: int
    damaged: int
    """Segments put aside in `log/damaged` because their tail could not be read."""
    steps: int = 0
    """Of agents' runs."""


class Log:
    """`log/` under state: `segments/WRITER/NNNNNNNN`, `table/` (Delta), `damaged/`, and the compactor's lock.

    `own` is the folder of `segments/` and `damaged/` where these are not with the rest, but on this node's disk. Then
    it shows what the table holds and what this node has not compacted yet; `nodes.compact` brings all into the table.
    """

    def __init__(
        self,
        folder: Path,
        settings: LogSettings | None = None,
        files: OsFiles | None = None,
        own: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.own = own or self.folder
        self.settings = settings or LogSettings()
        self._files = files or OsFiles()
        self._table: Table | None = None

    @classmethod
    def here(cls, settings: Settings) -> Log:
        """The log of a cluster, as this node sees it."""
        return cls(settings.state / "log", own=settings.log)

    @property
    def table_uri(self) -> str:
        """Where the Delta table is. Read a version that `compact` returned: a later one may not be on disk yet."""
        return str(self.folder / "table")

    @classmethod
    def shared(cls, settings: Settings) -> Log:
        """The log whose segments are under state too, so that every node can read them: for agents' journals."""
        return cls(settings.state / "log")

    def writer(self, name: str) -> Writer:
        """A writer of this process, with its own thread. Nothing touches the disk before the first append."""
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{name}-{socket.gethostname()}")
        # Unique for each start: a name that came back would append to, or hide behind, a dead writer's segments.
        unique = f"{readable}-{os.getpid()}-{secrets.token_hex(4)}"
        return Writer(SegmentWriter(self.own / "segments", unique, self.settings, self._files), self.settings)

    def entries(self) -> Iterator[Entry]:
        """Everything on disk that is not in the table yet, by writer. Works beside live writers and a compaction."""
        return (decode(payload) for payload in self.table().view().payloads)

    def read(self, version: int | None = None) -> Iterator[Entry]:
        """The entries of the table at a version (None: the newest), always in the same order."""
        return (decode(body) for body in self.table().bodies(version))

    def compact(self) -> Compaction:
        """Move what the segments hold into the table, exactly once. Raises `LogUnavailable`; others wait their turn."""
        return self.table().compact()

    def retain(self, now: float | None = None) -> int:
        """Delete compacted rows that are too old or too many (`LogSettings.keep_*`). Returns how many. May be slow."""
        from cluster.log.retention import retain

        return retain(self.table(), self.own, self.settings, time.time() if now is None else now)

    def stats(self) -> LogStats:
        table = self.table()
        view = table.view()
        counted = table.count(view.table_version)
        kinds = [json.loads(payload)["kind"] for payload in view.payloads]
        return LogStats(
            records=counted["record"] + kinds.count("record"),
            feedback=counted["feedback"] + kinds.count("feedback"),
            table_version=view.table_version,
            table_rows=sum(counted.values()),
            lag_entries=len(kinds),
            lag_bytes=view.lag_bytes,
            segments=len(view.opened),
            damaged=len(list(self.own.glob("damaged/*"))),
            steps=counted["step"] + kinds.count("step"),
        )

    def table(self) -> Table:
        """The table, for those who need more of it than `read`."""
        if self._table is None:
            # deltalake and pyarrow take 0.4 s to import: a process that only writes does without.
            from cluster.log.table import Table

            self._table = Table(self.folder, self.settings, self._files, self.own)
        return self._table
