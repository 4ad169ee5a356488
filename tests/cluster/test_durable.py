from __future__ import annotations

import multiprocessing
import os
from functools import partial
from pathlib import Path

import pytest

from cluster import durable
from tests.dying import die_at


@pytest.mark.parametrize("step", range(1, 9))
def test_a_crash_at_any_step_leaves_the_whole_file_or_none(tmp_path: Path, step: int) -> None:
    file = tmp_path / "decision"
    calls = ("open", "fsync", "link", "unlink", "close")
    create = partial(durable.create, file, b"whole")
    child = multiprocessing.get_context("fork").Process(target=die_at, args=(step, calls, create))
    child.start()
    child.join()
    assert child.exitcode in (0, 9)
    assert not file.exists() or file.read_bytes() == b"whole"
    if not file.exists():  # and the name is still to be had
        durable.create(file, b"after")
        assert file.read_bytes() == b"after"


def test_a_name_can_be_taken_once(tmp_path: Path) -> None:
    durable.create(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        durable.create(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_that_nfs_made_and_then_denied_counts_as_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def made_but_denied(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(target)

    monkeypatch.setattr(os, "link", made_but_denied)
    durable.create(tmp_path / "file", b"ours")
    assert (tmp_path / "file").read_bytes() == b"ours"


def test_replacing_shows_readers_the_old_or_the_new(tmp_path: Path) -> None:
    durable.replace(tmp_path / "file", b"old", mode=0o600)
    durable.replace(tmp_path / "file", b"new", mode=0o600)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_folders_come_with_their_parents(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "a" / "b", mode=0o700)
    durable.make_folder(tmp_path / "a" / "b", mode=0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with durable.create_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("content")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "content"
    assert os.listdir(tmp_path / "deep") == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with durable.create_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("content")
    assert os.listdir(tmp_path / "out") == ["file"]


@pytest.mark.parametrize("early", [True, False], ids=["at the beginning", "by the end"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_already_is_left_as_it_is(tmp_path: Path, early: bool, kind: str) -> None:
    out = tmp_path / "out"
    mine = out / "mine" if kind == "folder" else out

    def occupy() -> None:
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")

    if early:
        occupy()
    with pytest.raises(FileExistsError), durable.create_folder(out) as folder:
        assert not early
        (folder / "mine").write_text("other")
        occupy()
    assert os.listdir(tmp_path) == ["out"]
    assert mine.read_text() == "mine"


def test_a_folder_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk is full"), durable.create_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise OSError("disk is full")
    assert os.listdir(tmp_path) == []
