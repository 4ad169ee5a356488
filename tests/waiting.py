"""Waiting for a condition, never for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

Value = TypeVar("Value")


def eventually(
    look: Callable[[], Value | None], within_s: float, what: str, wanted: Callable[[Value], object] = bool
) -> Value:
    """The first value of `look` that is `wanted`: any true one. Fails with `what` if there is none in time."""
    deadline = time.monotonic() + within_s
    while (found := look()) is None or not wanted(found):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within_s:.0f} s, last seen: {found}")
        time.sleep(0.1)
    return found


def ended(process: psutil.Process) -> bool:
    """Whether a process is over, its parent's last look at it aside.

    Its first thread may be over before the others have noticed, on a busy machine by a fifth of a second; until the
    last one has, its sockets are open and take what is sent to them.
    """
    try:
        return not process.is_running() or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:  # between one question and the other
        return True
