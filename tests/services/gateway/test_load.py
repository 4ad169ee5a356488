from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.pressure import Gauge, Load, Node


@pytest.fixture
def gauge(tmp_path: Path) -> Gauge:
    return Gauge(tmp_path / "pressure")


@pytest.fixture
def node(gauge: Gauge, tmp_path: Path) -> Node:
    return Node(tmp_path / "pressure")


def now(node: Node) -> tuple[int, int]:
    seen = node.load()
    return seen.in_flight, seen.waiting


async def test_stream_is_weighed_until_its_end_and_waits_until_its_first_token(make, gauge, node) -> None:
    bench = make(gauge=gauge)
    bench.engine.pause = asyncio.Event()
    asking = asyncio.create_task(bench.chat(stream=True))
    await bench.engine.reached_pause.wait()
    assert now(node) == (1, 0), "it has its first word"
    assert node.load().ttft_s
    bench.engine.pause.set()
    await asking
    assert now(node) == (0, 0) and 0 < node.load().quiet_s < 60


async def test_requests_that_are_turned_away_weigh_nothing(make, gauge, node) -> None:
    bench = make(gauge=gauge)
    assert (await bench.chat(headers={"authorization": "Bearer sk-wrong"})).status_code == 401
    assert (await bench.chat(model="nobody")).status_code == 404
    assert (await bench.client.get("/v1/models")).status_code == 200
    assert node.load() == Load()


async def test_answer_that_fails_weighs_no_more(make, gauge, node) -> None:
    bench = make(gauge=gauge)
    bench.engine.crash = True
    assert (await bench.chat()).status_code == 500
    assert now(node) == (0, 0) and node.load().quiet_s < 60


async def test_caller_who_hangs_up_weighs_no_more(make, gauge, node) -> None:
    bench = make(gauge=gauge)
    bench.engine.pause = asyncio.Event()
    asking = asyncio.create_task(bench.chat(stream=True))
    await bench.engine.reached_pause.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert now(node) == (0, 0)


async def test_replays_of_the_holdout_do_not_stop_training(make, gauge, node) -> None:
    bench = make(gauge=gauge)
    assert (await bench.chat(headers={"x-trivium-purpose": "evaluation"})).status_code == 200
    assert node.load() == Load(), "nobody waits for them"
    assert (await bench.chat()).status_code == 200
    assert node.load().quiet_s < 60


async def test_two_callers_at_once_are_two(make, gauge, node) -> None:
    bench = make(gauge=gauge)
    bench.engine.pause = asyncio.Event()
    asking = [asyncio.create_task(bench.chat(stream=True)) for _ in range(2)]
    while now(node) != (2, 0):
        await asyncio.sleep(0)
    bench.engine.pause.set()
    await asyncio.gather(*asking)
    assert now(node) == (0, 0)
