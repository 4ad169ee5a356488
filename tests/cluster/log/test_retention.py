"""Retention: what is too old or too much goes; what is not compacted stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.log import Log, LogSettings
from cluster.log.retention import CHECKPOINT_COMMITS, SMALL_FILES
from tests.cluster.log.entries import everything, ids, record
from tests.cluster.log.forgetful import Crash, QuickFiles

DAY = 86400.0


def test_rows_that_are_too_old_are_deleted_and_their_bytes_leave_the_disk(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(keep_days=2, keep_versions_hours=0))
    with log.writer("w") as writer:
        writer.append_many([record(1, time=1 * DAY, text="old secret"), record(2, time=5 * DAY)])
        log.compact()
        assert log.retain(now=6 * DAY) == 1
    assert ids(log.read()) == ["req-2"]
    log.compact()  # retires the segment, which its writer has finished
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"old secret" not in path.read_bytes(), path
    assert log.retain(now=6 * DAY) == 0


def test_segments_are_never_touched_whatever_their_age(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(keep_days=1, keep_bytes=0))
    with log.writer("w") as writer:
        writer.append_sync(record(1, time=0))
        assert log.retain(now=100 * DAY) == 0
        assert ids(log.entries()) == ["req-1"]


def test_a_table_that_is_too_big_loses_its_oldest_rows(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with log.writer("w") as writer:
        for batch in range(4):
            writer.append_many(record(batch * 50 + n, text=_noise(batch * 50 + n)) for n in range(50))
            log.compact()
    size = sum(path.stat().st_size for path in (tmp_path / "table").glob("*.parquet"))
    keep = size // 2
    log = Log(tmp_path, LogSettings(keep_bytes=keep, keep_versions_hours=0))
    deleted = log.retain()
    left = ids(log.read())
    assert 90 <= deleted <= 120
    assert left == [f"req-{number}" for number in range(deleted, 200)], "the newest stay, without a gap"
    assert sum(path.stat().st_size for path in (tmp_path / "table").glob("*.parquet")) <= keep
    assert log.retain() == 0


def test_old_versions_can_be_read_until_their_time_is_over(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(keep_days=1))
    with log.writer("w") as writer:
        writer.append_many([record(1, time=0), record(2, time=10 * DAY)])
    pinned = log.compact().table_version
    log.retain(now=10 * DAY)
    assert ids(log.read()) == ["req-2"]
    assert ids(log.read(pinned)) == ["req-1", "req-2"]
    Log(tmp_path, LogSettings(keep_versions_hours=0)).retain()
    with pytest.raises(ValueError, match="no longer kept"):
        list(log.read(pinned))


def test_many_small_files_become_one_and_the_log_of_the_table_a_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, LogSettings(keep_versions_hours=0), QuickFiles())
    with log.writer("w") as writer:
        for number in range(max(SMALL_FILES, CHECKPOINT_COMMITS) + 2):
            writer.append_sync(record(number))
            log.compact()
        before = set(ids(log.read()))
        log.retain()
        assert len(list((tmp_path / "table").glob("*.parquet"))) == 1
        assert list((tmp_path / "table" / "_delta_log").glob("*.checkpoint.parquet"))
        assert set(ids(log.read())) == before
        writer.append_sync(record(900))
        assert log.compact().rows_added == 1
        assert sorted(ids(everything(log))) == sorted([*before, "req-900"])


def test_a_checkpoint_that_power_loss_tore_is_dropped(tmp_path: Path) -> None:
    class Stops(QuickFiles):
        def sync_file(self, path: Path) -> None:
            if "checkpoint" in path.name:
                raise Crash

    log = Log(tmp_path, LogSettings(), QuickFiles())
    with log.writer("w") as writer:
        for number in range(CHECKPOINT_COMMITS + 2):
            writer.append_sync(record(number))
            log.compact()
    with pytest.raises(Crash):
        Log(tmp_path, LogSettings(), Stops()).retain()
    (torn,) = (tmp_path / "table" / "_delta_log").glob("*.checkpoint.parquet")
    torn.write_bytes(torn.read_bytes()[:100])
    assert log.compact().rows_added == 0
    assert len(ids(log.read())) == CHECKPOINT_COMMITS + 2


def _noise(seed: int) -> str:
    """Text that does not compress, so that sizes follow rows."""
    import random

    return random.Random(seed).randbytes(1000).hex()
