"""What the processes below one use of the machine, from /proc; any of them may end while one looks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)
_RESIDENT = re.compile(rb"^Rss(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    processes: int
    memory_bytes: int
    """Resident; what several of them share counts once."""
    files: int
    """In the file systems that they were asked about."""


def usage(pid: int, folders: tuple[str, ...]) -> Usage:
    """Of all descendants of a process, and of the file systems that hold these folders where the descendants are."""
    below = list(descendants(pid))
    return Usage(len(below), sum(_memory_bytes(each) for each in below), _files(below, folders))


def descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in os.scandir(f"/proc/{pid}/task"):
            with suppress(OSError):
                for child in Path(thread.path, "children").read_text().split():
                    yield int(child)
                    yield from descendants(int(child))


def _memory_bytes(pid: int) -> int:
    for name, pattern in (("smaps_rollup", _PSS), ("status", _RESIDENT)):  # the first wants more rights
        with suppress(OSError):
            return sum(int(found) for found in pattern.findall(Path(f"/proc/{pid}/{name}").read_bytes())) * 1024
    return 0


def _files(pids: list[int], folders: tuple[str, ...]) -> int:
    for pid in reversed(pids):  # the youngest is inside for certain, once it has left our own file systems
        with suppress(OSError):
            inside = {folder: f"/proc/{pid}/root{folder}" for folder in folders}
            if all(os.stat(path).st_dev != os.stat(folder).st_dev for folder, path in inside.items()):
                found = [os.statvfs(path) for path in inside.values()]
                return sum(each.f_files - each.f_ffree for each in found)
    return 0
