"""`trivium status --watch`: live in a terminal, one picture below another elsewhere; up or down."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import _table
from cluster.log import Log
from cluster.log.recent import Pace
from tests.cluster.log.test_recent import answer
from tests.conftest import Cluster
from tests.waiting import eventually

FOUND: dict[str, Any] = {
    "state": "/state", "up": True, "nodes": [], "applications": {}, "aliases": {}, "log": None, "wheel": None,
    "training": None,
    "addresses": {"api": "http://127.0.0.1:8000/v1", "mlflow": "http://mlflow:5000"}, "metrics": None,
}  # fmt: skip


@pytest.fixture
def down(state: Path) -> Cluster:
    """A state with one answer, of this minute, and no cluster."""
    state.mkdir()
    with Log(state / "log").writer("test") as writer:
        writer.append_sync(answer(0, 0.25).model_copy(update={"time": time.time()}))
    return Cluster.on_free_ports(state)


@dataclass(frozen=True)
class Terminal:
    """A terminal in which `trivium status --watch` has begun to draw."""

    process: subprocess.Popen[bytes]
    screen: int
    settings: list[Any]
    """Of the terminal, before."""

    def ended(self) -> int:
        """Its exit code, once its settings are what they were."""
        code = self.process.wait(30)
        assert termios.tcgetattr(self.screen) == self.settings
        return code


@pytest.fixture
def terminal(down: Cluster) -> Iterator[Terminal]:
    screen, inside = pty.openpty()
    settings = termios.tcgetattr(screen)
    command = [Path(sys.executable).parent / "trivium", "status", "--watch"]
    variables = down.variables | {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    process = subprocess.Popen(command, env=variables, stdin=inside, stdout=inside, stderr=inside)
    os.set_blocking(screen, False)
    said = b""

    def drawn() -> bytes:
        nonlocal said
        with suppress(BlockingIOError):
            said += os.read(screen, 1 << 16)
        return said

    eventually(drawn, 60, "the picture", lambda said: b"requests/s" in said and b"dashboard" in said)
    yield Terminal(process, screen, settings)
    process.kill()
    process.wait()
    os.close(screen)
    os.close(inside)


@pytest.mark.ray  # the command in a process of its own: slow beside the fast tests
def test_elsewhere_than_in_a_terminal_it_shows_one_picture_below_another(down: Cluster) -> None:
    said = down.trivium("status", "--watch", "--refreshes", "2").stdout
    assert said.count("cluster               down") == 2
    assert said.count("assistant@1 champion  0.0 requests/s, p50 250 ms") == 2


@pytest.mark.ray  # the command in a process of its own: slow beside the fast tests
def test_q_ends_it(terminal: Terminal) -> None:
    os.write(terminal.screen, b"xq")
    assert terminal.ended() == 0


@pytest.mark.ray  # the command in a process of its own: slow beside the fast tests
def test_ctrl_c_ends_it(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ended() == 0


def test_a_canary_and_failures_are_shown() -> None:
    alias = {"champion": "assistant@3", "staged": "assistant@4", "base": "seed"}
    canary = {"share": 0.1, "shadow": False}
    pace = Pace("assistant@4", "candidate", 120, 3, 0.2, 60)
    table = _table(FOUND | {"aliases": {"assistant": alias | {"canary": canary}}}, [pace])
    assert "alias assistant        assistant@3, assistant@4 in its canary (10% of the sessions)" in table
    assert "assistant@4 candidate  2.0 requests/s, p50 200 ms, 3 of 120 failed" in table
    seen = canary | {"reason": "score 0.900 against 0.100"}
    told = _table(FOUND | {"aliases": {"assistant": alias | {"canary": seen}}})
    assert "in its canary (10% of the sessions): score 0.900 against 0.100" in told
    shadow = _table(FOUND | {"aliases": {"assistant": alias | {"canary": canary | {"shadow": True}}}})
    assert "assistant@3, assistant@4 in its canary (unseen, 10% of the sessions)" in shadow
    assert "assistant@3, assistant@4 staged" in _table(FOUND | {"aliases": {"assistant": alias | {"canary": None}}})


def test_a_quiet_minute_is_said() -> None:
    assert "last minute  no requests" in _table(FOUND, [])
    assert "last minute" not in _table(FOUND)
