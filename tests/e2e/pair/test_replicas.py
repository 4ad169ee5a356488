"""Replicas that come and go: sessions stay with theirs, load brings more of them, and long streams outlast them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.e2e.pair.conftest import CANDIDATE, answering, arms, settle, up
from tests.e2e.pair.talker import asking
from tests.e2e.using import Heard, Load, client, kill, one_answer
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def test_a_session_stays_with_one_replica_and_sessions_are_spread(pair: Cluster) -> None:
    settle(pair)
    with client(pair) as api:
        homes = [
            {one_answer(api, "assistant", "hi", False, begun=0, session=f"session-{number}").text for _ in range(4)}
            for number in range(20)
        ]
    assert all(len(home) == 1 for home in homes)
    assert len(set.union(*homes)) == 2


def test_a_replica_that_starts_during_a_canary_serves_the_same_arms(pair: Cluster) -> None:
    before, drawn = settle(pair), arms(pair)
    assert set(drawn.values()) == {"assistant@0", CANDIDATE}
    kill(pair.processes("ServeReplica:assistant:"))
    after = eventually(lambda: answering(pair), 90, "two others", lambda found: len(found) == 2)
    assert not after & before
    assert arms(pair) == drawn


@contextmanager
def streams(cluster: Cluster, count: int, end: Path) -> Iterator[list[Heard]]:
    """So many streams at once, of a word a second, until there is a file `end`; what became of those that ended."""
    heard: list[Heard] = []
    text = asking(3, 1, until=end)

    def listen() -> None:
        with client(cluster) as api:
            heard.append(one_answer(api, "assistant", text, True, begun=time.monotonic()))

    threads = [threading.Thread(target=listen, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        end.touch()
        for thread in threads:
            thread.join(timeout=60)


def replicas(cluster: Cluster) -> set[int]:
    return {process.pid for process in cluster.processes("ServeReplica:assistant:")}


def finished(heard: list[Heard]) -> set[int]:
    """Process ids of the replicas that the eight streams came from, each whole and from one of them."""
    assert [each.error for each in heard] == [None] * 8
    said = [set((each.text or "").split()) for each in heard]
    assert all(len(words) == 1 for words in said), "each from one replica"
    return {int(word) for words in said for word in words}


def test_streams_outlast_an_update_and_the_reload_that_it_brings(pair: Cluster, tmp_path: Path) -> None:
    up(pair, replicas=1)
    before = settle(pair, replicas=1)
    with Load(pair, users=4, text=asking(2, 0.01)) as load:
        with streams(pair, count=8, end=tmp_path / "end") as heard:
            eventually(lambda: len(load.complete) > 50, 60, "traffic beside the streams")
            changing = threading.Thread(target=up, args=(pair,), kwargs={"replicas": 1, "most_ongoing": 1000})
            changing.start()
            eventually(
                lambda: answering(pair), 120, "the one that is left", lambda now: len(now) == 1 and now != before
            )
            haproxies = [process for process in pair.processes("haproxy.cfg") if process.name() == "haproxy"]
            assert len(haproxies) > 1, "HAProxy was reloaded, and the former one has streams yet"
            assert not heard, "the streams go on all this time"
        changing.join(timeout=120)
        assert not changing.is_alive()
    assert not load.failures
    assert finished(heard) == before, "all of the former ones finished theirs"
    eventually(lambda: replicas(pair), 60, "one is left", lambda found: len(found) == 1 and not found & before)


def test_streams_outlast_the_replica_that_leaves(pair: Cluster, tmp_path: Path) -> None:
    up(pair, {"num_replicas": 2})
    before = settle(pair)
    with Load(pair, users=4, text=asking(2, 0.01)) as load:
        with streams(pair, count=8, end=tmp_path / "end") as heard:
            eventually(lambda: len(load.complete) > 50, 60, "traffic beside the streams")
            changing = threading.Thread(target=up, args=(pair, {"num_replicas": 1}))
            changing.start()
            eventually(lambda: answering(pair), 60, "one answers alone", lambda now: len(now) == 1 and now < before)
            assert replicas(pair) == before, "the other one has streams yet"
            assert not heard, "they go on all this time"
        changing.join(timeout=120)
        assert not changing.is_alive()
    assert not load.failures
    assert finished(heard) == before, "both had some, and finished them"
    eventually(lambda: replicas(pair), 60, "one is left", lambda found: len(found) == 1 and found < before)


def test_load_brings_another_replica_and_its_end_takes_it_away(pair: Cluster) -> None:
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2}
    patience = {"upscale_delay_s": 1, "downscale_delay_s": 2, "look_back_period_s": 5}
    up(pair, {"autoscaling_config": scaling | patience})
    settle(pair, replicas=1)
    with Load(pair, users=1, text=asking(8, 0.05)) as one:
        with Load(pair, users=8, text=asking(8, 0.05)) as many:
            settle(pair)
        settle(pair, replicas=1)
    assert not one.failures and not many.failures
