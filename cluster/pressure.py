"""How busy serving is on one machine, in memory that all its processes share: trainers make way within milliseconds.

One file of 64-byte slots for each state and machine. A replica's gateway writes its load into a slot of its own
(`Gauge`), a trainer what it does (`Turn`); whoever wants to know adds up the slots whose writers are alive (`Node`).
Writing and reading are a few stores and loads of eight aligned bytes, which no reader sees half done: no call of the
system, no lock. Only a slot is claimed under a lock (flock). All times are the machine's monotonic clock, in seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.environment import folder
from cluster.settings import Settings

REPLICAS, TRAINERS = 128, 64
"""Slots of each kind."""
WORDS = 8
"""Eight bytes each, in a slot."""
BEAT_S, SILENT_S = 1.0, 10.0
"""A replica that has not beaten for so long hangs or is stopped: what it says counts no more."""
RECENT, USUAL = 1 / 16, 1 / 1024
"""Weight of the newest answer in the two averages of TTFT."""
SIZE = (REPLICAS + TRAINERS) * WORDS * 8

PID, IN_FLIGHT, WAITING, SINCE, RECENT_TTFT, USUAL_TTFT, ENDED, BEAT = range(WORDS)
"""Words of a replica's slot: `SINCE` when the oldest of those that wait was asked, `ENDED` when the last answer was."""
PAUSED, TOTAL, TIMES, TOKENS = range(1, 5)
"""Words of a trainer's slot: since when it is paused, how long all in all, how often; tokens that it has trained on."""


def path(settings: Settings) -> Path:
    """Where the file is, on each machine."""
    return folder(settings) / "pressure"


@dataclass(frozen=True)
class Load:
    """What serving has to do on a machine."""

    in_flight: int = 0
    """Requests that are being answered."""
    waiting: int = 0
    """Of these, those without a first token."""
    oldest_wait_s: float = 0.0
    ttft_s: float | None = None
    """Of the last sixteen answers or so; None before the first one."""
    usual_ttft_s: float | None = None
    """Of the last thousand or so."""
    quiet_s: float = float("inf")
    """Since the last answer ended; 0 while one is under way."""


@dataclass(frozen=True)
class Trainer:
    """What a training worker does."""

    process: int
    paused: bool
    paused_s: float
    """All in all."""
    pauses: int
    tokens: int
    """That it has trained on."""


class Board:
    """The file's slots. Without a path it is this process's own memory, which nobody else sees."""

    def __init__(self, path: Path | None) -> None:
        self._file: int | None = None
        if path is None:
            memory = mmap.mmap(-1, SIZE)
        else:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            if os.fstat(self._file).st_size < SIZE:
                os.ftruncate(self._file, SIZE)  # zeros: nobody's slots
            memory = mmap.mmap(self._file, SIZE)
        self.counts, self.times = memoryview(memory).cast("q"), memoryview(memory).cast("d")

    def claim(self, slots: range) -> int:
        """First word of a slot that is ours from now on. Raises `RuntimeError` if all belong to others who live."""
        with self._alone():
            slot = next((slot for slot in slots if not alive(self.counts[slot])), None)
            if slot is None:
                raise RuntimeError(f"all {len(slots)} places for processes of this kind on one machine are taken")
            for word in range(slot + 1, slot + WORDS):
                self.counts[word] = 0
            self.times[slot + BEAT] = time.monotonic()
            self.counts[slot] = os.getpid()  # last: from here on readers look at it
            return slot

    def release(self, slot: int) -> None:
        """Nobody's again. It keeps a mark: readers stop at the first slot that never was anybody's."""
        self.counts[slot] = GONE

    def live(self, slots: range, silent_s: float = float("inf")) -> Iterator[int]:
        """First words of the slots whose writers are there, and have beaten within `silent_s`."""
        now = time.monotonic()
        for slot in slots:
            pid = self.counts[slot]
            if pid == 0:
                return  # slots are claimed from the front
            if now - self.times[slot + BEAT] < silent_s and alive(pid):
                yield slot

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._file is None:
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


GONE = -1
_REPLICAS = range(0, REPLICAS * WORDS, WORDS)
_TRAINERS = range(REPLICAS * WORDS, (REPLICAS + TRAINERS) * WORDS, WORDS)


def alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's: it is there
    return True


class Gauge:
    """A replica's load. For one thread, the event loop's."""

    def __init__(self, path: Path | None = None) -> None:
        self._board = Board(path)
        self._slot = slot = self._board.claim(_REPLICAS)
        self._counts = self._board.counts[slot : slot + WORDS]
        self._times = self._board.times[slot : slot + WORDS]
        self._waiting: OrderedDict[int, float] = OrderedDict()
        """When those were asked that have no first token yet, the oldest first."""
        self._asked = 0

    def asked(self) -> int:
        """A request comes in; what to call it by."""
        self._asked += 1
        now = time.monotonic()
        self._waiting[self._asked] = now
        if len(self._waiting) == 1:
            self._times[SINCE] = now
        self._counts[WAITING] = len(self._waiting)
        self._counts[IN_FLIGHT] += 1
        self._times[BEAT] = now
        return self._asked

    def first_token(self, number: int) -> None:
        """The request got its first token."""
        ttft_s = time.monotonic() - self._leave(number)
        for word, weight in ((RECENT_TTFT, RECENT), (USUAL_TTFT, USUAL)):
            before = self._times[word]
            self._times[word] = before + weight * (ttft_s - before) if before else ttft_s

    def answered(self, number: int) -> None:
        """It is over, however it ended."""
        if number in self._waiting:
            self._leave(number)
        self._times[ENDED] = time.monotonic()
        self._counts[IN_FLIGHT] -= 1

    def beat(self) -> None:
        """Every `BEAT_S`: this process does not hang."""
        self._times[BEAT] = time.monotonic()

    def close(self) -> None:
        self._board.release(self._slot)

    def _leave(self, number: int) -> float:
        asked = self._waiting.pop(number)
        self._counts[WAITING] = len(self._waiting)
        self._times[SINCE] = next(iter(self._waiting.values()), 0.0)
        return asked


class Turn:
    """What one training worker does. For one thread."""

    def __init__(self, path: Path | None = None) -> None:
        self._board = Board(path)
        self._slot = slot = self._board.claim(_TRAINERS)
        self._counts = self._board.counts[slot : slot + WORDS]
        self._times = self._board.times[slot : slot + WORDS]

    @property
    def paused_s(self) -> float:
        return self._times[TOTAL]

    @property
    def pauses(self) -> int:
        return self._counts[TIMES]

    def pause(self) -> None:
        self._counts[TIMES] += 1
        self._times[PAUSED] = time.monotonic()

    def resume(self) -> None:
        self._times[TOTAL] += time.monotonic() - self._times[PAUSED]
        self._times[PAUSED] = 0.0

    def trained(self, tokens: int) -> None:
        self._counts[TOKENS] += tokens

    def close(self) -> None:
        self._board.release(self._slot)


class Node:
    """Reads what the processes of this machine say. A file that is not there yet is looked for once a second; without a
    path there is nothing to be read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._board: Board | None = None
        self._looked = 0.0

    def load(self) -> Load:
        """Summed over the replicas; the averages are the worst one's."""
        board = self._open()
        if board is None:
            return Load()
        counts, times = board.counts, board.times
        in_flight = waiting = 0
        since, ended = float("inf"), 0.0
        recent = usual = 0.0
        for slot in board.live(_REPLICAS, SILENT_S):
            in_flight += counts[slot + IN_FLIGHT]
            waiting += counts[slot + WAITING]
            if counts[slot + WAITING]:
                since = min(since, times[slot + SINCE] or since)
            if times[slot + RECENT_TTFT] > recent:
                recent, usual = times[slot + RECENT_TTFT], times[slot + USUAL_TTFT]
            ended = max(ended, times[slot + ENDED])
        now = time.monotonic()  # only now: who wrote while this was read is not of the future
        quiet_s = 0.0 if in_flight else now - ended if ended else float("inf")
        return Load(in_flight, waiting, max(0.0, now - since), recent or None, usual or None, quiet_s)

    def trainers(self) -> list[Trainer]:
        board = self._open()
        if board is None:
            return []
        counts, times, now = board.counts, board.times, time.monotonic()
        return [
            Trainer(
                process=counts[slot],
                paused=bool(since := times[slot + PAUSED]),
                paused_s=times[slot + TOTAL] + (now - since if since else 0.0),
                pauses=counts[slot + TIMES],
                tokens=counts[slot + TOKENS],
            )
            for slot in board.live(_TRAINERS)
        ]

    def _open(self) -> Board | None:
        if self._board is None and self._path and time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            if self._path.exists() and self._path.stat().st_size >= SIZE:
                self._board = Board(self._path)
        return self._board
