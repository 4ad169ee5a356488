"""Who runs which run: an owner is a process that holds the lock on a file of its own, as long as it lives.

    agents/owners/NAME            an owner; NAME is that of its log writer, and the `source` of its steps
    agents/owners/NAME.adopted    one that another owner has taken the lock of, and whose runs it takes over just now

The kernel frees the lock of a process that dies, however it dies. Every owner looks every half second for such files;
of several that look, one gets the lock. It renames the file first of all: an owner that is alive after all, cut off
from a shared disk for a while, sees its file gone and does nothing more. The file goes when all the runs in it have
been claimed; whoever dies in between leaves a file whose lock is free.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import durable
from cluster.log.files import Lock, OsFiles

_ADOPTED = ".adopted"
SKEW_S = 3600.0
"""How far the clocks of machines may differ."""


class NotOurs(Exception):
    """The runs of this process are somebody else's by now."""


class Ownership:
    """This process's own file."""

    def __init__(self, state: Path, name: str) -> None:
        self._folder = folder(state)
        self._path = self._folder / name
        self._lock: Lock | None = None
        self._inode = 0
        self.name = name

    def open(self, now: float) -> None:
        """Be known, durably, before the first run."""
        durable.make_folder(self._folder, mode=0o700)
        # Locked before it has its name: nobody may find it free.
        unborn = self._folder / f".{self.name}"
        self._lock = OsFiles().lock(unborn)
        unborn.write_text(json.dumps({"since": now}))
        self._inode = unborn.stat().st_ino
        OsFiles().sync_file(unborn)
        os.rename(unborn, self._path)
        durable.sync_folder(self._folder)

    def check(self) -> None:
        """Raises `NotOurs` if another owner has taken over: a microsecond, so it is asked before every effect."""
        try:
            if os.stat(self._path).st_ino == self._inode:
                return
        except OSError:
            pass
        raise NotOurs(f"{self._path} is gone: another process has taken over")

    def remember(self, since: float) -> None:
        """That no run of this owner began before `since`: what an heir need not read. Durable on return."""
        with open(self._path, "r+") as file:
            file.write(json.dumps({"since": since}) + "\n")
            file.truncate()
        OsFiles().sync_file(self._path)

    def close(self, empty: bool) -> None:
        """Leave. `empty`: there is nothing to inherit."""
        if empty:
            self._path.unlink(missing_ok=True)
        if self._lock:
            self._lock.release()
            self._lock = None


class Orphaned:
    """An owner that is gone; its lock is ours while the block lasts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name.removesuffix(_ADOPTED)
        self.since = _since(path)

    def settled(self) -> None:
        """All its runs are claimed."""
        self._path.unlink(missing_ok=True)
        durable.sync_folder(self._path.parent)


@contextmanager
def orphans(state: Path, own: str) -> Iterator[list[Orphaned]]:
    """Owners that are gone, each one's lock held until the block ends."""
    files, locks, found = OsFiles(), list[Lock](), list[Orphaned]()
    try:
        for path in _files(state):
            if path.name == own or path.name.startswith("."):
                continue
            try:
                inode = path.stat().st_ino
                lock = files.lock(path, wait=False, create=False)
            except FileNotFoundError:
                continue
            if lock is None:
                continue
            locks.append(lock)
            if (held := _fenced(path, inode)) is not None:
                found.append(Orphaned(held))
        yield found
    finally:
        for lock in locks:
            lock.release()


def folder(state: Path) -> Path:
    return state / "agents" / "owners"


def _files(state: Path) -> list[Path]:
    try:
        return sorted(folder(state).iterdir())
    except FileNotFoundError:
        return []


def _fenced(path: Path, inode: int) -> Path | None:
    """The file under its new name; None if another owner had it between our look and our lock."""
    adopted = path.with_name(path.name.removesuffix(_ADOPTED) + _ADOPTED)
    try:
        if path.stat().st_ino != inode:
            raise FileNotFoundError
        os.rename(path, adopted)
    except FileNotFoundError:
        return None
    durable.sync_folder(path.parent)
    return adopted


def _since(path: Path) -> float:
    try:
        return float(json.loads(path.read_text())["since"]) - SKEW_S
    except (ValueError, KeyError, OSError):
        return float("-inf")  # written when the power went: then everything is read
