"""The last minute's answers, read from segments while they are written, compacted and retired."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.log import Log, LogSettings
from cluster.log.recent import Pace, Recent
from cluster.records import Feedback, Record

NOW = time.time()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log", LogSettings())


def answer(ended_s: float, latency_s: float = 1.0, version: str = "assistant@1", **more: object) -> Record:
    """An answer that ended so many seconds before `NOW`."""
    given = {"request_id": "req-1", "principal": "owner", "session": "s", "endpoint": "/v1/chat/completions"}
    given |= {"version": version, "arm": "champion", "time": NOW - ended_s - latency_s, "latency_s": latency_s, **more}
    return Record.model_validate(given)


def test_answers_of_the_last_minute_by_version_and_arm(log: Log) -> None:
    with log.writer("a") as writer:
        writer.append_many([answer(100), answer(61), *(answer(30, latency_s) for latency_s in (0.1, 0.2, 9.0))])
        writer.append_many([answer(5, 2.0, "assistant@2", arm="candidate", status=500)])
        writer.append_sync(Feedback(request_id="req-1", time=NOW, principal="owner", score=1))
        assert Recent(log.folder).paces(NOW) == [
            Pace("assistant@1", "champion", 3, 0, 0.2, 60),
            Pace("assistant@2", "candidate", 1, 1, 2.0, 60),
        ]


def test_each_look_adds_what_came_since_and_drops_what_is_old(log: Log) -> None:
    recent = Recent(log.folder)
    assert recent.paces(NOW) == []
    with log.writer("a") as first, log.writer("b") as second:
        first.append_sync(answer(50))
        assert [pace.requests for pace in recent.paces(NOW)] == [1]
        second.append_sync(answer(1))
        first.append_sync(answer(0))
        assert [pace.requests for pace in recent.paces(NOW)] == [3]
        assert [pace.requests for pace in recent.paces(NOW + 30)] == [2]
        assert recent.paces(NOW + 90) == []


def test_compaction_takes_nothing_from_the_picture(log: Log) -> None:
    recent = Recent(log.folder)
    with log.writer("a") as writer:
        writer.append_sync(answer(10))
        assert [pace.requests for pace in recent.paces(NOW)] == [1]
        log.compact()
        writer.append_sync(answer(9))
        assert [pace.requests for pace in recent.paces(NOW)] == [2]
    log.compact()
    assert not list(log.folder.glob("segments/*/0*"))
    assert [pace.requests for pace in recent.paces(NOW)] == [2]


def test_a_torn_tail_is_read_once_it_is_whole(log: Log) -> None:
    recent = Recent(log.folder)
    with log.writer("a") as writer:
        writer.append_sync(answer(10))
        [segment] = log.folder.glob("segments/*/0*")
        whole = segment.read_bytes()
        segment.write_bytes(whole[:-5])
        assert recent.paces(NOW) == []
        segment.write_bytes(whole)
        assert [pace.requests for pace in recent.paces(NOW)] == [1]


def test_imported_conversations_of_long_ago_are_no_traffic(log: Log) -> None:
    with log.writer("import") as writer:
        writer.append_many([answer(1e6) for _ in range(10)])
    assert Recent(log.folder).paces(NOW) == []
