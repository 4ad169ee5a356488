"""Who owns which runs: one process at a time, and one heir."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.agents.owners import SKEW_S, NotOurs, Ownership, folder, orphans


def names(state: Path, own: str = "me") -> list[str]:
    with orphans(state, own) as found:
        return [orphan.name for orphan in found]


def test_the_living_are_left_alone_and_the_dead_are_found(state: Path) -> None:
    assert names(state) == [], "before anybody was there"
    one = Ownership(state, "one")
    one.open(1000.0)
    one.check()
    assert names(state) == []
    one.close(empty=False)
    with orphans(state, "me") as found:
        (orphan,) = found
        assert (orphan.name, orphan.since) == ("one", 1000.0 - SKEW_S)
        assert names(state) == [], "one heir at a time"
    assert names(state) == ["one"], "an heir that dies before it is done leaves it to the next"
    with orphans(state, "me") as found:
        found[0].settled()
    assert names(state) == [] and list(folder(state).iterdir()) == []


def test_who_leaves_nothing_has_no_heir(state: Path) -> None:
    one = Ownership(state, "one")
    one.open(0)
    one.close(empty=True)
    assert names(state) == []


def test_a_killed_process_is_found_at_once(state: Path) -> None:
    program = (
        "import sys, time, pathlib; from services.agents.owners import Ownership\n"
        "own = Ownership(pathlib.Path(sys.argv[1]), 'victim'); own.open(5.0); own.remember(7.0)\n"
        "print('open', flush=True); time.sleep(60)"
    )
    victim = subprocess.Popen([sys.executable, "-c", program, str(state)], stdout=subprocess.PIPE)
    assert victim.stdout and victim.stdout.readline() == b"open\n"
    assert names(state) == []
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    victim.stdout.close()
    with orphans(state, "me") as found:
        assert [(orphan.name, orphan.since) for orphan in found] == [("victim", 7.0 - SKEW_S)]


def test_an_owner_learns_that_it_was_taken_for_dead(state: Path) -> None:
    one = Ownership(state, "one")
    one.open(0)
    assert one._lock
    one._lock.release()  # as a shared disk does with the lock of a machine that it does not hear of
    one._lock = None
    assert names(state) == ["one"]
    with pytest.raises(NotOurs, match="another process has taken over"):
        one.check()


def test_an_owner_whose_file_is_torn_is_read_from_the_beginning(state: Path) -> None:
    one = Ownership(state, "one")
    one.open(1000.0)
    (folder(state) / "one").write_text('{"sin')
    one.close(empty=False)
    with orphans(state, "me") as found:
        assert [orphan.since for orphan in found] == [float("-inf")]
