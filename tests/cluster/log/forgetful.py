"""A file layer that does what POSIX allows at a crash: it forgets what was not fsynced, or remembers it, or half of it.

It works on a real folder and keeps beside it what is on disk for sure: the bytes of each inode at its last fsync, and
the entries of each folder at its last fsync. `crash(into)` writes down a state in which the machine may come up again.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Literal

from cluster.log.files import File, Lock, OsFiles

Outcome = Literal["forget", "keep"] | int
"""Forget all that was not fsynced, keep it all (what `kill -9` does), or any mixture (the seed of the choice)."""


class Crash(BaseException):
    """The machine stops here."""


class QuickFiles(OsFiles):
    """The operating system's files without waiting for a disk: real fsyncs would take the tests minutes."""

    def create(self, path: Path) -> File:
        return QuickFile(path)

    def _sync(self, path: Path) -> None:
        pass


class QuickFile(File):
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)


class ForgetfulFiles(QuickFiles):
    """Crashes before step number `crash_at`; its disk is full, or its fsync fails, while `fault` says so."""

    def __init__(self, root: Path, crash_at: int | None = None) -> None:
        self._root = root
        self._crash_at = crash_at
        self.steps = 0
        self.fault: int | None = None
        self.fault_at: Literal["write", "sync"] = "write"
        self.synced: list[Path] = []
        """Files and folders in the order of their fsyncs, and what was unlinked."""
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[bool, int]]] = {}
        self._open: dict[int, int] = {}
        """A descriptor of each inode that was seen: keeps its number from being used again."""
        self._locks: list[Lock] = []

    def step(self) -> None:
        if self._crash_at is not None and self.steps >= self._crash_at:
            raise Crash
        self.steps += 1

    def create(self, path: Path) -> File:
        self.step()
        return ForgetfulFile(self, path)

    def make_folder(self, path: Path) -> None:
        self.step()
        super().make_folder(path)

    def sync_folder(self, path: Path) -> None:
        self.step()
        self.synced.append(path)
        self._names[path.stat().st_ino] = self._listing(path)

    def sync_file(self, path: Path) -> None:
        self.step()
        self.synced.append(path)
        self.durable(path.stat().st_ino, path.read_bytes(), path)

    def rename(self, source: Path, target: Path) -> None:
        self.step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.step()
        self.synced.append(path)
        super().unlink(path)

    def remove_folder(self, path: Path) -> None:
        self.step()
        self._names.pop(path.stat().st_ino, None)
        super().remove_folder(path)

    def lock(self, path: Path, *, wait: bool = True) -> Lock | None:
        self.step()
        lock = super().lock(path, wait=wait)
        if lock:
            self._locks.append(lock)
        return lock

    def durable(self, inode: int, data: bytes, path: Path) -> None:
        self._bytes[inode] = data
        self._hold(inode, path)

    def crash(self, into: Path, outcome: Outcome) -> None:
        """Lay out what the disk holds when the machine comes up again."""
        chance = random.Random(outcome) if isinstance(outcome, int) else None
        self._lay_out(self._root, self._root.stat().st_ino, into, outcome, chance)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _lay_out(
        self, real: Path | None, inode: int, into: Path, outcome: Outcome, chance: random.Random | None
    ) -> None:
        into.mkdir()
        now = self._listing(real) if real and real.is_dir() else {}
        keep = outcome == "keep" or (chance is not None and chance.random() < 0.5)
        for name, (folder, child) in (now if keep else self._names.get(inode, {})).items():
            path = self._where(child, now, real, name)
            if folder:
                self._lay_out(path, child, into / name, outcome, chance)
            else:
                (into / name).write_bytes(self._content(child, path, outcome, chance))

    def _where(self, inode: int, now: dict[str, tuple[bool, int]], real: Path | None, name: str) -> Path | None:
        """Where an inode is now: it may have another name, or none."""
        for other, (_, child) in now.items():
            if child == inode and real:
                return real / other
        return None

    def _content(self, inode: int, path: Path | None, outcome: Outcome, chance: random.Random | None) -> bytes:
        sure = self._bytes.get(inode, b"")
        if outcome == "forget":
            return sure
        if inode in self._open:
            now = os.pread(self._open[inode], os.fstat(self._open[inode]).st_size, 0)
        else:
            now = path.read_bytes() if path else b""
        if chance is None or not now.startswith(sure):
            return now
        more = now[len(sure) :]
        cut = chance.randint(0, len(more))
        match chance.randrange(3):
            case 0:
                return sure + more[:cut]
            case 1:  # the size got to disk, the pages did not
                return sure + more[:cut] + bytes(len(more) - cut)
            case _:  # a late page did, an early one did not
                return sure + bytes(cut) + more[cut:]

    def _listing(self, folder: Path) -> dict[str, tuple[bool, int]]:
        found = {}
        for item in os.scandir(folder):
            found[item.name] = (item.is_dir(), item.inode())
            if item.is_file():
                self._hold(item.inode(), Path(item.path))
        return found

    def _hold(self, inode: int, path: Path) -> None:
        if inode not in self._open:
            self._open[inode] = os.open(path, os.O_RDONLY)


class ForgetfulFile(QuickFile):
    """Writes in two halves, then fsyncs: a crash or a fault may come between any two."""

    def __init__(self, files: ForgetfulFiles, path: Path) -> None:
        super().__init__(path)
        self._files = files
        self._path = path
        self._inode = path.stat().st_ino

    def append(self, data: bytes) -> None:
        half = len(data) // 2
        self._files.step()
        super().append(data[:half])
        if self._files.fault and self._files.fault_at == "write":
            raise OSError(self._files.fault, os.strerror(self._files.fault))
        self._files.step()
        super().append(data[half:])
        self._files.step()
        if self._files.fault and self._files.fault_at == "sync":
            raise OSError(self._files.fault, os.strerror(self._files.fault))
        self._sync()
        self._files.step()

    def truncate(self, size: int) -> None:
        self._files.step()
        if self._files.fault == errno.EIO:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().truncate(size)
        self._sync()

    def _sync(self) -> None:
        # After a failed fsync the kernel forgets that the pages were dirty; appending on would "succeed" without them.
        self._files.synced.append(self._path)
        self._files.durable(self._inode, os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0), self._path)
