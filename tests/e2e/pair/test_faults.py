"""`kill -9` of one process after the other under load. What each fault took is printed: `pytest -rP`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.e2e.pair.conftest import CANDIDATE, answering, arms, settle
from tests.e2e.pair.talker import asking
from tests.e2e.using import Load, kill, logged_records
from tests.waiting import ended, eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

USERS = 8


@pytest.fixture
def load(pair: Cluster, tmp_path: Path) -> Iterator[Load]:
    """Users of two replicas. In the end: errors were OpenAI's, the canary goes on, full answers are in the log."""
    settle(pair)
    drawn = arms(pair)
    assert set(drawn.values()) == {"assistant@0", CANDIDATE}
    with Load(pair, users=USERS, text=asking(words=8, pause_s=0.05), sessions=True) as load:
        eventually(lambda: len(load.complete) >= 4 * USERS, 60, "traffic")
        yield load
        now = time.monotonic()
        eventually(lambda: len([h for h in load.after(now) if h.text]) >= 4 * USERS, 60, "traffic afterwards")
        assert load.errors_s(now) == 0
    assert not load.strange
    assert arms(pair) == drawn
    logged = logged_records(pair, tmp_path / "log.jsonl")
    for heard in load.complete:
        assert heard.request_id and logged[heard.request_id]["answer"]["content"] == heard.text


def seconds(since: float, reached: Callable[[], object], within_s: float, what: str) -> float:
    """How long after `since` something is reached."""
    eventually(reached, within_s, what)
    return time.monotonic() - since


def report(what: str, load: Load, since: float, **more: float) -> None:
    cut = [heard for heard in load.heard if heard.error and heard.begun <= since]
    figures = " ".join(f"{name} {value:.1f} s" for name, value in more.items())
    print(f"{what}: {len(cut)} cut off; new requests failed for {load.errors_s(since):.1f} s; {figures}")


def test_a_killed_replica_is_replaced_and_no_new_request_fails(pair: Cluster, load: Load) -> None:
    replicas = answering(pair)
    victim = pair.processes("ServeReplica:assistant:")[0]
    dead = kill([victim])
    back_s = seconds(dead, lambda: len(answering(pair) - (replicas - {victim.pid})) == 1, 90, "another replica")
    report("replica", load, dead, back=back_s)
    assert load.errors_s(dead) == 0
    assert len(load.failures) <= USERS


def test_a_killed_haproxy_is_back_in_six_seconds(pair: Cluster, load: Load) -> None:
    proxies = [process for process in pair.processes("haproxy.cfg") if process.name() == "haproxy"]
    dead = kill(proxies)
    back_s = seconds(dead, lambda: any(heard.text for heard in load.after(dead)), 60, "answers")
    report("HAProxy", load, dead, back=back_s)
    assert back_s < 12, "5 s where nothing else is at work"


def test_a_killed_controller_is_not_noticed(pair: Cluster, load: Load) -> None:
    dead = kill(pair.processes("ServeController"))
    back_s = seconds(dead, lambda: pair.processes("ServeController"), 60, "another controller")
    settle(pair)
    report("controller", load, dead, back=back_s)
    assert not load.failures


def test_a_killed_gcs_is_not_noticed_and_up_brings_it_back(pair: Cluster, load: Load) -> None:
    before = pair.status()["applications"]
    dead = kill(pair.processes("gcs_server"))
    assert not pair.status()["up"]
    eventually(lambda: len(load.after(dead)) > 16 * USERS, 60, "traffic without it")
    said = pair.trivium("up").stdout
    back_s = time.monotonic() - dead
    assert "GCS died; it goes on" in said
    assert pair.status()["applications"] == before
    report("GCS", load, dead, back=back_s)
    assert not load.failures
    # It works: actors are made as before.
    replicas = answering(pair)
    victim = pair.processes("ServeReplica:assistant:")[0]
    dead = kill([victim])
    seconds(dead, lambda: len(answering(pair) - (replicas - {victim.pid})) == 1, 90, "another replica")
    assert load.errors_s(dead) == 0


def test_a_replica_that_hangs_is_passed_over_and_replaced(pair: Cluster, load: Load) -> None:
    """Stopped, it accepts connections and answers nobody, as one whose event loop is blocked."""
    replicas = answering(pair)
    victim = pair.processes("ServeReplica:assistant:")[0]
    victim.send_signal(signal.SIGSTOP)
    hung = time.monotonic()
    killed_s = seconds(hung, lambda: ended(victim), 120, "Serve ended it")
    back_s = seconds(hung, lambda: len(answering(pair) - (replicas - {victim.pid})) == 1, 90, "another replica")
    # Those to whom it had said something are cut off; the others waited for its end, and another replica answered.
    waited = [heard for heard in load.heard if heard.error or heard.ended - heard.begun > killed_s / 2]
    waited_s = max(heard.ended - hung for heard in waited)
    passed_over_s = max(heard.begun - hung for heard in waited)
    report("hung replica", load, hung, passed_over=passed_over_s, killed=killed_s, waited=waited_s, back=back_s)
    assert passed_over_s < 15, "5 s where nothing else is at work"
    assert waited_s < 60, "36 s where nothing else is at work"
