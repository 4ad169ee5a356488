"""Whatever is killed or loses power at whatever step: what was acknowledged is there, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.log import Log, LogSettings, LogUnavailable
from tests.cluster.log.entries import everything, feedback, ids, record
from tests.cluster.log.forgetful import Crash, ForgetfulFiles, Outcome, QuickFiles

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
SMALL = LogSettings(segment_bytes=1500, flush_every_ms=0)
"""Two or three entries fill a segment."""
Told = tuple[list[str], list[str]]
"""Ids that were acknowledged, and ids that were tried."""
Story = Callable[[Path, ForgetfulFiles], Told]


def writing(folder: Path, files: ForgetfulFiles) -> Told:
    """Two writers fill several segments."""
    return _tell(Log(folder, SMALL, files), entries=7, compact_after=())


def compacting(folder: Path, files: ForgetfulFiles) -> Told:
    """The same with a compaction beside a living writer, and one after its end."""
    return _tell(Log(folder, SMALL, files), entries=4, compact_after=(1, 3))


def _tell(log: Log, entries: int, compact_after: tuple[int, ...]) -> Told:
    first, second = log.writer("first"), log.writer("second")
    acknowledged: list[str] = []
    tried: list[str] = []
    try:
        for number in range(entries):
            entry = record(number)
            tried.append(entry.request_id)
            (second if number % 4 == 2 else first).append_sync(entry)
            acknowledged.append(entry.request_id)
            if number == entries - 1:
                first.close()
            if number in compact_after:
                log.compact()
    except (Crash, LogUnavailable):
        pass
    first.close()
    second.close()
    return acknowledged, tried


def at_every_step(tmp_path: Path, story: Story) -> Iterator[tuple[Path, list[str], list[str], str]]:
    """Crash before each step of the story; yields the state folder as the machine finds it, and what was told."""
    root, after = tmp_path / "root", tmp_path / "after"
    root.mkdir()
    whole = ForgetfulFiles(root)
    acknowledged, tried = story(root / "log", whole)
    assert acknowledged == tried
    whole.close()
    for crash_at in range(whole.steps):
        shutil.rmtree(root)
        root.mkdir()
        files = ForgetfulFiles(root, crash_at)
        acknowledged, tried = story(root / "log", files)
        # The worst case always; the others take turns, for the time that it takes.
        others: tuple[Outcome, ...] = ("keep", crash_at, -crash_at)
        outcomes: tuple[Outcome, ...] = ("forget", others[crash_at % 3])
        for outcome in outcomes:
            files.crash(after, outcome)
            yield after / "log", acknowledged, tried, f"crash before step {crash_at} of {whole.steps}, {outcome=}"
            shutil.rmtree(after)
        files.close()


def test_what_was_acknowledged_is_recovered_after_a_crash_at_any_step_of_writing(tmp_path: Path) -> None:
    for folder, acknowledged, tried, where in at_every_step(tmp_path, writing):
        found = ids(Log(folder).entries())
        assert set(acknowledged) <= set(found) <= set(tried), where
        assert len(found) == len(set(found)), where


def test_every_entry_is_in_the_table_once_after_a_crash_at_any_step_of_compaction(tmp_path: Path) -> None:
    for folder, acknowledged, tried, where in at_every_step(tmp_path, compacting):
        log = Log(folder, SMALL, QuickFiles())
        before = ids(everything(log)) if log.table().version() is not None else []
        log.compact()
        found = ids(log.read())
        assert set(acknowledged) <= set(found) <= set(tried), where
        assert len(found) == len(set(found)), f"{where}: twice"
        assert not before or sorted(before) == sorted(found), f"{where}: readers saw something else"
        # It goes on from here: what comes next is neither lost nor mixed up with what was.
        with log.writer("first") as writer:
            writer.append_sync(feedback(1))
        assert log.compact().rows_added == 1, where
        assert not list(log.entries()), where
        assert not [path for path in (folder / "segments").iterdir() if not path.name.startswith(".")], where


def test_everything_that_a_commit_needs_is_on_disk_before_its_segments_go(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    log = Log(tmp_path / "log", SMALL, files)
    with log.writer("first") as writer:
        writer.append_sync(record(1))
    log.compact()
    table = tmp_path / "log" / "table"
    # The segment stands there twice: where it was fsynced, and where it was unlinked.
    segment = next(path for path in files.synced if path.name == "00000000")
    gone = len(files.synced) - 1 - files.synced[::-1].index(segment)
    assert not segment.exists()
    before = files.synced[:gone]
    for path in [
        *table.glob("*.parquet"),
        *table.glob("_delta_log/*.json"),
        table / "_delta_log",
        table,
        tmp_path / "log",
    ]:
        assert path in before, path
    files.close()
