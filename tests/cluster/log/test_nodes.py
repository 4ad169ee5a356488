"""Segments on the nodes' own disks. `tests/e2e/test_machines.py` has the tasks that compact them, on two machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.log import Log, nodes
from cluster.log.segments import LogSettings
from cluster.log.table import Compaction
from cluster.settings import Settings
from tests.cluster.log.entries import ids, record


def node(tmp_path: Path, name: str) -> Log:
    """The log as one node sees it: the table of all, segments of its own."""
    return Log.here(Settings(state=tmp_path / "state", log=tmp_path / name))


def write(log: Log, *numbers: int) -> None:
    with log.writer("w") as writer:
        writer.append_many(record(number) for number in numbers)


def test_each_living_node_has_its_turn_and_one_that_is_away_has_none() -> None:
    known = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}, {"NodeID": "c", "Alive": True}]
    assert nodes.places(known) == ["a", "c"]


def test_the_newest_version_holds_what_all_turns_committed() -> None:
    made = [Compaction(7, 10, 1), Compaction(9, 0, 0), Compaction(8, 5, 2)]
    assert nodes.together(made) == Compaction(table_version=9, rows_added=15, segments_retired=3)


def test_where_all_share_the_segments_one_compaction_is_enough_and_ray_is_not_asked(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path / "state")
    write(Log.here(settings), 1, 2)
    assert nodes.compact(settings).rows_added == 2
    assert ids(Log.here(settings).read()) == ["req-1", "req-2"]


def test_nodes_compact_their_own_segments_into_one_table(tmp_path: Path) -> None:
    one, other = node(tmp_path, "one"), node(tmp_path, "other")
    write(one, 1)
    write(other, 2)
    assert not (tmp_path / "state").exists()
    assert ids(one.entries()) == ["req-1"]
    assert (one.compact().rows_added, other.compact().rows_added) == (1, 1)
    assert sorted(ids(one.read())) == sorted(ids(other.read())) == ["req-1", "req-2"]
    assert not list((tmp_path / "one" / "segments").iterdir())


def test_a_node_that_was_away_brings_its_segments_when_it_is_back_and_only_once(tmp_path: Path) -> None:
    one, away = node(tmp_path, "one"), node(tmp_path, "away")
    write(away, 1)
    write(one, 2)
    assert ids(one.read(one.compact().table_version)) == ["req-2"]
    assert away.stats().lag_entries == 1
    assert [away.compact().rows_added for _ in range(2)] == [1, 0]
    assert sorted(ids(one.read())) == ["req-1", "req-2"]


def test_a_damaged_segment_stays_on_the_disk_that_it_is_on(tmp_path: Path) -> None:
    log = node(tmp_path, "one")
    write(log, 1)
    (segment,) = (tmp_path / "one" / "segments").glob("*/0*")
    with segment.open("r+b") as file:
        file.seek(-8, 2)  # over the end mark
        file.write(b"no frame and more")
    assert log.compact().rows_added == 1
    assert log.stats().damaged == 1
    assert len(list((tmp_path / "one" / "damaged").iterdir())) == 1


def test_the_folder_of_a_node_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIVIUM_LOG", "disk")
    assert Settings.from_environment().log == tmp_path / "disk"
    assert LogSettings() == Log.here(Settings.from_environment()).settings
