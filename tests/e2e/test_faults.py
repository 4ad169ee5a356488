"""`kill -9` on two replicas under load where the engine matters, and everything ended and started again.

An engine on CPU is one process beside its replica (`services/engine.py`): there is no worker to kill.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.e2e.using import Load, answers, kill, logged_records, wait_for_answers
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

BACK_S = 300
"""A replica's start takes 50 s on two free cores; here others may be at work too."""

ENGINES = "EngineCore"


@pytest.fixture(scope="module")
def two(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with two replicas: one more than before."""
    before = pids(cluster)
    cluster.trivium("up", "--replicas", "2")
    assert before <= pids(cluster), "who is there already stays"
    yield cluster
    cluster.trivium("up", "--replicas", "1")


def pids(cluster: Cluster) -> set[int]:
    return {process.pid for process in cluster.processes("ServeReplica:assistant:")}


def whole(cluster: Cluster) -> bool:
    """Whether both replicas and their engines run and take requests."""
    replicas = cluster.status()["replicas"]
    return len(cluster.processes(ENGINES)) == 2 and bool(replicas) and len(replicas["assistant"]) == 2


@pytest.mark.parametrize(("victim", "errors_s"), [("ServeReplica:assistant:", 0), (ENGINES, 10)])
def test_killed_under_load_it_comes_back_and_no_full_answer_is_lost(
    victim: str, errors_s: float, two: Cluster, tmp_path: Path
) -> None:
    eventually(lambda: whole(two), BACK_S, "two replicas")
    version, aliases = answers(two), two.status()["aliases"]
    with Load(two, users=8, sessions=True) as load:
        eventually(lambda: len(load.complete) >= 40, 60, "traffic")
        found = two.processes(victim)
        assert len(found) == 2, found
        dead = kill(found[:1])
        eventually(lambda: whole(two), BACK_S, "two replicas again")
        back_s, now = time.monotonic() - dead, time.monotonic()
        eventually(lambda: len([heard for heard in load.after(now) if heard.text]) >= 40, 60, "traffic afterwards")
    cut = len([heard for heard in load.heard if heard.error and heard.begun <= dead])
    print(f"{victim} {cut} cut off, new requests failed for {load.errors_s(dead):.1f} s, both back in {back_s:.0f} s")
    assert load.errors_s(dead) <= errors_s
    assert load.errors_s(now) == 0
    assert not load.strange
    assert answers(two) == version
    assert two.status()["aliases"] == aliases
    logged = logged_records(two, tmp_path / "log.jsonl")
    for heard in load.complete:
        assert heard.request_id and (logged[heard.request_id]["answer"]["content"] or "") == heard.text


def test_down_and_up_serves_the_same_champion(cluster: Cluster) -> None:
    before, counted = cluster.status(), wait_for_answers(cluster, BACK_S)
    cluster.trivium("down")
    assert cluster.status()["up"] is False
    cluster.trivium("up")
    assert wait_for_answers(cluster, 60) == counted
    after = cluster.status()
    assert after["aliases"] == before["aliases"]
    assert after["log"]["records"] >= before["log"]["records"]
