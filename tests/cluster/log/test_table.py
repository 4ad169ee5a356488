"""The table: compaction beside living writers, dead writers, torn tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from cluster.log import Log, LogSettings, LogUnavailable
from cluster.log.segments import segments
from tests.cluster.log.entries import everything, feedback, ids, record, step
from tests.cluster.log.forgetful import Crash, ForgetfulFiles, QuickFiles

WRITE = """
import sys
from pathlib import Path
from cluster.log import Log, LogSettings
from tests.cluster.log.entries import record
writer = Log(Path(sys.argv[1]), LogSettings(segment_bytes=20_000)).writer("child")
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    entry = record(number)
    writer.append_sync(entry)
    print(entry.request_id, flush=True)
"""


def child(folder: Path, start: int, stop: int) -> subprocess.Popen[str]:
    """A process that appends records and prints the id of each once it is acknowledged."""
    arguments = [sys.executable, "-c", WRITE, str(folder), str(start), str(stop)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_rows_have_the_columns_that_readers_rely_on(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        writer.append_many([record(1), feedback(1, 0.25, source="judge")])
    version = log.compact().table_version
    first, second = DeltaTable(log.table_uri, version=version).to_pyarrow_table().sort_by("time").to_pylist()
    assert json.loads(first.pop("body")) == record(1).model_dump()
    assert {key: value for key, value in first.items() if key not in ("segment", "seq")} == {
        "kind": "record", "request_id": "req-1", "time": 1_000_001.0, "session": "session-1", "alias": "assistant",
        "version": "assistant@0", "arm": "direct", "source": None, "score": None,
    }  # fmt: skip
    assert (second["kind"], second["source"], second["score"], second["session"]) == ("feedback", "judge", 0.25, None)
    assert list(log.read()) == [record(1), feedback(1, 0.25, source="judge")]


def test_an_empty_log_has_an_empty_table(tmp_path: Path) -> None:
    log = Log(tmp_path)
    assert log.stats().table_version is None
    assert list(log.read()) == []
    assert log.compact().table_version == 0
    assert (log.stats().records, log.stats().table_version) == (0, 0)
    assert list(log.read(0)) == []


def test_a_living_writers_entries_are_compacted_and_its_segment_stays(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        writer.append_sync(record(1))
        first = log.compact()
        writer.append_sync(record(2))
        assert ids(log.entries()) == ["req-2"]
        second = log.compact()
        assert (first.rows_added, second.rows_added, second.segments_retired) == (1, 1, 0)
        assert log.compact().table_version == second.table_version
    assert log.compact().segments_retired == 1
    assert not list((tmp_path / "segments").iterdir())
    assert ids(log.read(first.table_version)) == ["req-1"]
    assert ids(log.read(second.table_version)) == ["req-1", "req-2"]


def test_a_segment_that_has_a_successor_is_retired_while_its_writer_lives(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(segment_bytes=1200))
    with log.writer("w") as writer:
        writer.append_many([record(1)])
        for number in range(2, 7):
            writer.append_sync(record(number))
        assert log.compact().segments_retired == 2
        assert len(segments(tmp_path / "segments")) == 1


def test_stats_count_what_is_compacted_and_what_is_not(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        writer.append_many([record(1), record(2), feedback(1)])
        log.compact()
        writer.append_many([record(3), feedback(2)])
        found = log.stats()
    assert (found.records, found.feedback, found.table_rows, found.lag_entries, found.segments) == (3, 2, 3, 2, 1)
    assert found.lag_bytes == sum(len(e.model_dump_json()) for e in (record(3), feedback(2)))


def test_processes_that_write_are_killed_and_compacted_beside_lose_and_double_nothing(tmp_path: Path) -> None:
    children = [child(tmp_path, start, start + 100_000) for start in (0, 1_000_000, 2_000_000)]
    acknowledged: list[str] = []

    def follow(process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            acknowledged.append(line.strip())

    readers = [threading.Thread(target=follow, args=(process,)) for process in children]
    for reader in readers:
        reader.start()
    log = Log(tmp_path)
    compactions = 0
    while len(acknowledged) < 600 or compactions < 3:
        log.compact()
        compactions += 1
        assert all(process.poll() is None for process in children)
    for process in children:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for reader in readers:
        reader.join()
    log.compact()
    found = ids(log.read())
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) - len(set(acknowledged)) <= len(children), "at most the one that each was about to print"
    assert not list(log.entries())
    assert not list((tmp_path / "segments").iterdir()), "dead writers leave nothing behind"


def test_compactions_in_several_threads_take_turns(tmp_path: Path) -> None:
    log = Log(tmp_path)
    added: list[int] = []
    with log.writer("w") as writer:
        writer.append_many(record(number) for number in range(50))
        threads = [threading.Thread(target=lambda: added.append(log.compact().rows_added)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(added) == [0, 0, 0, 50]


@pytest.mark.parametrize("left", [b"", b'{"commitInfo":{}}\n', b'{"add":', bytes(200)])
def test_a_commit_that_power_loss_tore_is_done_again(tmp_path: Path, left: bytes) -> None:
    class Stops(QuickFiles):
        def sync_file(self, path: Path) -> None:
            raise Crash

    with Log(tmp_path).writer("w") as writer:
        Log(tmp_path).compact()
        writer.append_sync(record(1))
        with pytest.raises(Crash):
            Log(tmp_path, files=Stops()).compact()
        torn = tmp_path / "table" / "_delta_log" / f"{1:020}.json"
        assert torn.exists()
        torn.write_bytes(left)
        log = Log(tmp_path)
        assert ids(everything(log)) == ["req-1"], "readers keep to the mark"
        assert log.compact().rows_added == 1
        assert ids(everything(log)) == ["req-1"]


def test_a_table_that_lost_what_was_on_disk_is_not_silently_begun_anew(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        writer.append_sync(record(1))
    version = log.compact().table_version
    (tmp_path / "table" / "_delta_log" / f"{version:020}.json").unlink()
    with pytest.raises(ValueError, match=f"lost version {version}; restore it"):
        log.compact()


def test_a_missing_mark_does_not_throw_the_table_away(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        writer.append_sync(record(1))
    log.compact()
    (tmp_path / "table" / "_mark.json").unlink()
    with pytest.raises(ValueError, match="is gone; write"):
        log.compact()


def test_a_disk_that_fails_under_the_table_leaves_everything_in_the_segments(tmp_path: Path) -> None:
    class Fails(ForgetfulFiles):
        def sync_file(self, path: Path) -> None:
            raise OSError(5, "Input/output error")

    log = Log(tmp_path / "log")
    with log.writer("w") as writer:
        writer.append_sync(record(1))
    files = Fails(tmp_path)
    with pytest.raises(LogUnavailable, match="Input/output error"):
        Log(tmp_path / "log", LogSettings(), files).compact()
    files.close()
    assert ids(log.entries()) == ["req-1"]
    assert log.compact().rows_added == 1


def test_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.compact()
    with pytest.raises(ValueError, match="no version 7; the newest is 0"):
        list(log.read(7))


def test_rows_are_found_by_their_columns_without_reading_the_others(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("agents") as writer:
        writer.append_many([step(n, run=f"run-{n % 3}", source=f"agents-{n % 2}") for n in range(12)])
    with log.writer("gateway") as writer:
        writer.append_many([record(n) for n in range(12)])
    assert len(list(log.table().view("agents-").payloads)) == 12
    log.compact()
    kind, source, session = ds.field("kind") == "step", ds.field("source"), ds.field("session")
    where = kind & (source == "agents-1") & session.isin(["thread of run-0"])
    assert [row[0] for row in log.table().rows(("request_id",), where=where)] == ["run-0/3", "run-0/9"]
    assert list(log.table().rows(("body",), since=105, where=where)) == list(
        log.table().rows(("body",), where=kind & (ds.field("request_id") == "run-0/9"))
    )
    assert list(log.table().rows(("body",), where=ds.field("kind") == "nothing")) == []
