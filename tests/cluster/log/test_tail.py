"""Tail: the newest of segments and table, and then each new one once."""

from __future__ import annotations

from pathlib import Path

from cluster.log import Log
from cluster.log.tail import Tail
from tests.cluster.log.entries import ids, record


def test_segments_and_table_are_merged_by_time(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("a") as a, log.writer("b") as b:
        a.append_many([record(1), record(4)])
        log.compact()
        b.append_many([record(2), record(5)])
        a.append_sync(record(3))
        assert ids(Tail(log).last(10)) == [f"req-{n}" for n in range(1, 6)]
        assert ids(Tail(log).last(2)) == ["req-4", "req-5"]
        assert Tail(log).last(0) == []


def test_following_shows_each_entry_once_also_when_it_is_compacted_first(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("a") as writer:
        writer.append_sync(record(1))
        tail = Tail(log)
        assert ids(tail.last(10)) == ["req-1"]
        assert tail.new() == []
        writer.append_sync(record(2))
        assert ids(tail.new()) == ["req-2"]
        log.compact()
        assert tail.new() == []
        writer.append_sync(record(3))
        log.compact()
        writer.append_sync(record(4))
        assert ids(tail.new()) == ["req-3", "req-4"]
        assert tail.new() == []
    with log.writer("b") as writer:
        writer.append_sync(record(5))
    log.compact()
    assert ids(tail.new()) == ["req-5"]


def test_following_an_empty_log_begins_with_its_first_entry(tmp_path: Path) -> None:
    log = Log(tmp_path)
    tail = Tail(log)
    assert tail.last(10) == [] and tail.new() == []
    with log.writer("a") as writer:
        writer.append_sync(record(1))
    assert ids(tail.new()) == ["req-1"]
