"""The writer: many callers share an fsync, and nobody is told that something is on disk when it is not."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from pathlib import Path

import pytest

from cluster.log import Log, LogSettings, LogUnavailable
from cluster.log.files import OsFiles
from cluster.log.segments import segments
from cluster.records import Record
from tests.cluster.log.entries import ids, record
from tests.cluster.log.forgetful import ForgetfulFiles


async def test_concurrent_callers_share_fsyncs(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        await asyncio.gather(*[writer.append(record(number)) for number in range(500)])
        assert writer.syncs <= 20
    assert sorted(ids(log.entries())) == sorted(f"req-{number}" for number in range(500))


def test_event_loops_and_threads_may_share_a_writer(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def many(start: int) -> None:
        await asyncio.gather(*[writer.append(record(start + number)) for number in range(100)])

    with log.writer("w") as writer:
        threads = [threading.Thread(target=lambda s=s: asyncio.run(many(s * 100))) for s in range(3)]
        for thread in threads:
            thread.start()
        writer.append_sync(record(999))
        for thread in threads:
            thread.join()
    assert len(set(ids(log.entries()))) == 301


async def test_an_append_returns_only_after_its_fsync(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(ForgetfulFiles):
        def sync_folder(self, path: Path) -> None:
            assert gate.wait(10)
            super().sync_folder(path)

    log = Log(tmp_path / "log", LogSettings(), Slow(tmp_path))
    with log.writer("w") as writer:
        waiting = asyncio.create_task(writer.append(record(1)))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        gate.set()
        await waiting


async def test_an_entry_whose_caller_is_cancelled_is_written_all_the_same(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        waiting = asyncio.create_task(writer.append(record(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await writer.append(record(2))
    assert ids(log.entries()) == ["req-1", "req-2"]


@pytest.mark.parametrize(("fault", "at"), [(errno.ENOSPC, "write"), (errno.EIO, "write"), (errno.EIO, "sync")])
def test_a_failing_disk_is_reported_and_its_segment_never_used_again(tmp_path: Path, fault: int, at) -> None:
    files = ForgetfulFiles(tmp_path)
    log = Log(tmp_path / "log", LogSettings(), files)
    with log.writer("w") as writer:
        writer.append_sync(record(1))
        files.fault, files.fault_at = fault, at
        for number in (2, 3):
            with pytest.raises(LogUnavailable, match="cannot be written"):
                writer.append_sync(record(number))
        files.fault = None
        writer.append_sync(record(4))
    # The machine may even lose power now: what was acknowledged is on disk, not in pages that a failed fsync wrote off.
    files.crash(tmp_path / "after", "forget")
    assert ids(Log(tmp_path / "after" / "log").entries()) == ["req-1", "req-4"]
    first, *_, last = segments(tmp_path / "log" / "segments")
    assert first.index < last.index
    files.close()


async def test_a_full_disk_fails_the_whole_group_and_the_next_one_succeeds(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    log = Log(tmp_path / "log", LogSettings(), files)
    with log.writer("w") as writer:
        files.fault = errno.ENOSPC
        results = await asyncio.gather(*[writer.append(record(n)) for n in range(20)], return_exceptions=True)
        assert all(isinstance(result, LogUnavailable) for result in results)
        assert "No space left" in str(results[0])
        files.fault = None
        await writer.append(record(99))
    assert ids(log.entries()) == ["req-99"]
    files.close()


def test_a_folder_deleted_under_the_writer_is_noticed_and_made_anew(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with log.writer("w") as writer:
        writer.append_sync(record(1))
        writer._segments._checked -= 2  # it looks once a second
        shutil.rmtree(tmp_path / "log")
        with pytest.raises(LogUnavailable):
            writer.append_sync(record(2))
        writer.append_sync(record(3))
    assert ids(log.entries()) == ["req-3"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_the_writers_thread_leaves_nobody_waiting(tmp_path: Path) -> None:
    class Broken(OsFiles):
        def create(self, path: Path):
            raise TypeError("a defect")

    writer = Log(tmp_path, files=Broken()).writer("w")
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            writer.append_sync(record(1))
    writer.close()


def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    writer = Log(tmp_path).writer("w")
    writer.close()
    with pytest.raises(LogUnavailable, match="closed"):
        writer.append_sync(record(1))
    assert not (tmp_path / "segments").exists()


def test_half_a_surrogate_pair_is_logged_as_a_replacement_character(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        writer.append_sync(record(1, text="odd \ud83d one"))
    (entry,) = log.entries()
    assert isinstance(entry, Record)
    assert entry.messages[0]["content"] == "odd � one"
