"""The last minute's answers, from the segments alone: cheap enough to look every second, and read-only."""

from __future__ import annotations

import statistics
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.log.entries import decode
from cluster.log.segments import Segment, SegmentReader, segments
from cluster.records import Record

MOST = 50_000
"""Entries of one segment that a look goes through."""


@dataclass(frozen=True)
class Pace:
    """What one version answered as one arm."""

    version: str
    arm: str
    requests: int
    failed: int
    p50_s: float
    """Half of its answers took no longer."""
    window_s: float


class Recent:
    """Remembers how far each segment was read. What a finished segment held between two looks may go unseen."""

    def __init__(self, folder: Path, window_s: float = 60) -> None:
        self._segments = folder / "segments"
        self._window_s = window_s
        self._read: dict[Segment, int] = {}
        self._records: list[Record] = []

    def paces(self, now: float) -> list[Pace]:
        """By version and arm, of the answers that ended in the last `window_s`."""
        since = now - self._window_s
        found = segments(self._segments)
        self._read = {segment: self._read.get(segment, 0) for segment in found}
        for segment in found:
            with suppress(FileNotFoundError):  # compacted and unlinked just now
                self._records += self._new(segment, since)
        self._records = [record for record in self._records if _ended(record) >= since]
        groups: dict[tuple[str, str], list[Record]] = {}
        for record in self._records:
            groups.setdefault((record.version, record.arm), []).append(record)
        return [self._pace(*who, records) for who, records in sorted(groups.items())]

    def _new(self, segment: Segment, since: float) -> list[Record]:
        if segment.path.stat().st_mtime < since:
            return []
        with segment.path.open("rb") as file:
            reader = SegmentReader(file, segment.name, self._read[segment])
            payloads = deque(reader, maxlen=MOST)
        self._read[segment] = reader.good_bytes
        new = []
        while payloads:
            entry = decode(payloads.pop())
            if isinstance(entry, Record):
                if _ended(entry) < since:
                    break  # a writer writes in the order in which answers end
                new.append(entry)
        return new

    def _pace(self, version: str, arm: str, records: list[Record]) -> Pace:
        failed = sum(record.status >= 500 for record in records)
        p50_s = statistics.median(record.latency_s for record in records)
        return Pace(version, arm, len(records), failed, p50_s, self._window_s)


def _ended(record: Record) -> float:
    return record.time + record.latency_s
