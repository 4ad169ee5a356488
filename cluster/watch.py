"""The same picture again and again in a terminal, until somebody has seen enough."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click

REFRESH_S = 2.0


def show(draw: Callable[[], str], refreshes: int | None = None) -> None:
    """Draw in place every `REFRESH_S` until `q`, Ctrl-C, or `refreshes`; without a terminal, one below another."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        return _loop(lambda: click.echo(draw()), refreshes)
    with Live(console=console, auto_refresh=False) as live:
        _loop(lambda: live.update(Text(draw()), refresh=True), refreshes)


def _loop(turn: Callable[[], None], refreshes: int | None) -> None:
    with _keyboard() as enough, _interrupt() as interrupted:
        shown = 0
        with suppress(KeyboardInterrupt):  # asked for, like `q`
            while not (shown and (interrupted.is_set() or enough())):
                turn()
                shown += 1
                if shown == refreshes:
                    return


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """Ctrl-C raises as ever, and is remembered: Python drops what is raised within a finalizer."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _keyboard() -> Iterator[Callable[[], bool]]:
    """Waits `REFRESH_S` and says whether `q` was pressed meanwhile; without a keyboard it only waits."""
    if not sys.stdin.isatty():
        yield _never
        return
    import termios
    import tty

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)  # a key counts at once, without Return, and is not shown
        yield lambda: _pressed(keys)
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _never() -> bool:
    time.sleep(REFRESH_S)
    return False


def _pressed(keys: int) -> bool:
    deadline = time.monotonic() + REFRESH_S
    while (left_s := deadline - time.monotonic()) > 0:
        if select.select([keys], [], [], left_s)[0]:
            said = os.read(keys, 64)
            if b"q" in said.lower() or not said:
                return True
    return False
