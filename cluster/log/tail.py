"""The newest entries of the whole log, segments and table merged by time, and then each new one as it comes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from cluster.log.entries import decode
from cluster.log.segments import SegmentReader
from cluster.log.store import Log
from cluster.records import Entry

Place = tuple[float, str, int]
"""`time`, segment, frame: sorts by time, and keeps its meaning when the compactor moves the entry into the table."""
LATE_S = 3600
"""Longest that a request may take and still be followed: its `time` is when it arrived."""


class Tail:
    """Remembers how far each segment was read. Of the table, it looks at entries from `since` on."""

    def __init__(self, log: Log, since: float = float("-inf")) -> None:
        self._log = log
        self._next: dict[str, int] = {}
        self._version: int | None = None
        self._since = since

    def last(self, count: int) -> list[Entry]:
        """The newest `count` entries, oldest first. Entries that come later are left to `new`."""
        found = dict(self._fresh())
        places = list(found)
        for place in self._rows("time", "segment", "seq"):
            places.append(place)
            self._seen(place)
        newest = heapq.nlargest(count, places)
        if newest:
            self._since = newest[-1][0] - LATE_S
            wanted = set(newest) - found.keys()
            if wanted:
                rows = self._rows("time", "segment", "seq", "body")
                found |= {row[:3]: decode(row[3]) for row in rows if row[:3] in wanted}
        return [found[place] for place in sorted(newest)]

    def new(self) -> list[Entry]:
        """Entries that were logged since the last call, in order of `time`."""
        version, seen = self._version, dict(self._next)
        found = dict(self._fresh())
        if self._version != version:
            # Some may have been moved into the table before we saw them in their segment.
            for row in self._rows("time", "segment", "seq", "body"):
                if row[2] >= seen.get(row[1], 0) and row[:3] not in found:
                    found[row[:3]] = decode(row[3])
                    self._seen(row[:3])
        return [found[place] for place in sorted(found)]

    def _fresh(self) -> Iterator[tuple[Place, Entry]]:
        """What is new in the segments, and not in the table."""
        view = self._log.table().view()
        self._version = view.table_version
        for segment, file, start in view.opened:
            with file:
                start = max(start, self._next.get(segment.name, 0))
                for seq, payload in enumerate(SegmentReader(file, segment.name)):
                    if seq >= start:
                        entry = decode(payload)
                        place = (entry.time, segment.name, seq)
                        self._seen(place)
                        yield place, entry

    def _rows(self, *columns: str) -> Iterator[tuple]:
        return iter(()) if self._version is None else self._log.table().rows(columns, self._version, self._since)

    def _seen(self, place: Place) -> None:
        self._next[place[1]] = max(self._next.get(place[1], 0), place[2] + 1)
