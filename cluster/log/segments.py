"""Segments: the system of record. One file of frames that one writer appends to and nobody changes.

    file  = magic (7 bytes) + format version (1 byte) + frames + end mark, if the writer finished it
    frame = length (u32 LE) + CRC32C of length and payload (u32 LE) + payload (the entry as JSON)

A segment is named `WRITER/NNNNNNNN`, a frame by its segment and its place in it (`seq`, from 0). Neither is ever used
again: after any failure the writer goes on in a new segment. The pair makes everything downstream idempotent.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from cluster.log.files import File, Lock, OsFiles
from cluster.settings import Strict

MAGIC = b"TRIVLOG"
FORMAT = 1
HEADER = MAGIC + bytes([FORMAT])
END_MARK = struct.pack("<II", 0, 0x454E4421)
"""Length 0, which no frame has. A tail of zeros, as some file systems leave after a crash, is not an end mark."""
_PREFIX = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


class LogSettings(Strict):
    """How the log is written, and how long it is kept."""

    flush_every_ms: float = 0.5
    """Longest that a record waits for others to share its fsync. Nobody waits while records come one at a time."""
    segment_bytes: int = 64 * 2**20
    """A segment that has grown to this is finished and the next one begun."""
    segment_s: float = 3600
    """... or that is this old: retention works on finished segments."""
    keep_days: float | None = None
    """Compacted rows whose `time` is older are deleted; None keeps them for ever. Imported rows keep their own time."""
    keep_bytes: int | None = 64 * 2**30
    """The oldest compacted rows are deleted until the table is no bigger than this; None is no limit."""
    keep_versions_hours: float = 168
    """How long old versions of the table can be read. Deleted rows leave the disk when this has passed."""


def frame(payload: bytes) -> bytes:
    """One entry as it stands in a segment."""
    length = _LENGTH.pack(len(payload))
    return length + _LENGTH.pack(_checksum(length, payload)) + payload


def _checksum(length: bytes, payload: bytes) -> int:
    return google_crc32c.extend(google_crc32c.value(length), payload)


@dataclass(frozen=True, order=True)
class Segment:
    """Where one segment is."""

    writer: str
    index: int
    folder: Path = field(compare=False)

    @property
    def name(self) -> str:
        """What Delta's transactions call it."""
        return f"{self.writer}/{self.index:08}"

    @property
    def path(self) -> Path:
        return self.folder / self.name


def segments(folder: Path) -> list[Segment]:
    """All segments under `log/segments`, each writer's in order. Folders that are still being made begin with a dot."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for writer in folder.iterdir():
            if not writer.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    found += [Segment(writer.name, int(p.name), folder) for p in writer.iterdir() if p.name.isdigit()]
    return sorted(found)


class SegmentReader:
    """Iterates the payloads of a segment up to the first torn frame; afterwards says what stood there.

    `start` is where an earlier reader of the same segment had come to, its `good_bytes`.
    """

    def __init__(self, file: BinaryIO, name: str, start: int = 0) -> None:
        self._file = file
        self._name = name
        self.frames = 0
        self.good_bytes = start
        self.finished = False
        """The writer's end mark was reached: nothing will be added."""
        self._size = os.fstat(file.fileno()).st_size
        self.tail = b""
        """What follows the last whole frame: being written just now, or torn by a crash, or damaged."""

    def __iter__(self) -> Iterator[bytes]:
        header = self._file.read(len(HEADER)) if not self.good_bytes else HEADER
        if header != HEADER:
            if header.startswith(MAGIC) and len(header) == len(HEADER):
                raise ValueError(
                    f"log segment {self._name} has format {header[-1]}, this Trivium reads {FORMAT}; use the newer one"
                )
            self.tail = header + self._file.read()
            return
        self.good_bytes = self._file.seek(self.good_bytes or len(HEADER))
        while True:
            prefix = self._file.read(_PREFIX.size)
            if prefix == END_MARK:
                self.finished = True
                return
            if len(prefix) < _PREFIX.size:
                self.tail = prefix
                return
            length, checksum = _PREFIX.unpack(prefix)
            # A torn length may say 4 GiB: never ask for more than there is.
            payload = self._file.read(length) if length <= self._size - self.good_bytes else b""
            if not payload or len(payload) != length or _checksum(prefix[:4], payload) != checksum:
                self.tail = prefix + payload + self._file.read()
                return
            yield payload
            self.frames += 1
            self.good_bytes += _PREFIX.size + length


class SegmentWriter:
    """One writer's segments, in `log/segments/NAME/`. Belongs to one thread.

    The folder holds a file `lock`, held as long as the writer lives. Both appear together, by a rename: a folder whose
    lock is free therefore belongs to a writer that is gone.
    """

    def __init__(self, folder: Path, name: str, settings: LogSettings, files: OsFiles) -> None:
        self._folder = folder
        self._home = folder / name
        self.name = name
        self._settings = settings
        self._files = files
        self._lock: Lock | None = None
        self._named = False
        self._file: File | None = None
        self._path = self._home
        self._next = 0
        self._size = 0
        self._begun = 0.0
        self._checked = 0.0

    def append(self, frames: Sequence[bytes]) -> None:
        """On return all frames are on disk. Raises `OSError`: then none of them counts; the segment is given up.

        After a failed fsync the kernel may take the lost pages for clean (Rebello et al., "Can Applications
        Recover from fsync Failures?", USENIX ATC 2020), so a file that failed once is never appended to again.
        """
        data = b"".join(frames)
        if self._file and (self._size + len(data) > self._settings.segment_bytes or self.idle_s() <= 0):
            self.finish()
        try:
            if self._file is None:
                self._begin(data)
            else:
                self._file.append(data)
                self._size += len(data)
            self._check_linked()
        except OSError:
            self._give_up()
            raise

    def idle_s(self) -> float:
        """Seconds until the open segment is too old."""
        return max(self._begun + self._settings.segment_s - time.monotonic(), 0) if self._file else 86400

    def finish(self) -> None:
        """End the open segment. The mark only tells the compactor sooner, so nothing depends on it."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.append(END_MARK)
            self._file.close()
            self._file = None

    def close(self) -> None:
        self.finish()
        if self._lock:
            self._lock.release()
            self._lock = None

    def _begin(self, data: bytes) -> None:
        """A new segment: header and first frames in one write, then its name."""
        self._claim()
        self._path, self._size, self._begun = self._home / f"{self._next:08}", 0, time.monotonic()
        self._next += 1
        self._file = self._files.create(self._path)
        self._file.append(HEADER + data)
        self._files.sync_folder(self._home)
        self._size = len(HEADER) + len(data)

    def _claim(self) -> None:
        if self._lock is None:
            self._files.make_folder(self._folder)
            unborn = self._folder / f".{self._home.name}"
            self._files.make_folder(unborn)
            lock = self._files.lock(unborn / "lock")
            assert lock, "the name is ours alone"
            try:
                self._files.rename(unborn, self._home)
            except OSError:
                lock.release()
                raise
            self._lock, self._named = lock, False
        if not self._named:
            self._files.sync_folder(self._folder)
            self._named = True

    def _check_linked(self) -> None:
        """Once a second: has somebody deleted the folder under us? Then the bytes are on no disk that lasts."""
        now = time.monotonic()
        if now - self._checked > 1:
            self._checked = now
            if self._file and not self._file.linked():
                raise FileNotFoundError(2, "the log's folder was deleted", str(self._path))

    def _give_up(self) -> None:
        """Cut off what was not acknowledged, if the disk still lets us; the next append begins a new segment."""
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):
                if self._size:
                    file.truncate(self._size)
                else:
                    self._files.unlink(self._path)
            file.close()
        if self._lock and not self._home.is_dir():
            self._lock.release()
            self._lock = None
