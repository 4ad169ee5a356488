"""A candidate on live traffic: who meets it, and that nobody sees a shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.auth import MOST_PRIORITY
from services.gateway.parameters import CHAT
from tests.services.gateway.conftest import Bench, Client


@pytest.fixture
def canary(gateway: Bench) -> Bench:
    """Half of the sessions belong to assistant@1."""
    return begin(gateway)


@pytest.fixture
def shadow(gateway: Bench) -> Bench:
    """Half of the sessions are answered by assistant@1 too, unseen."""
    return begin(gateway, shadow=True)


def begin(gateway: Bench, shadow: bool = False) -> Bench:
    gateway.publish("assistant", 1)
    for action, version in (("create", "assistant@0"), ("stage", "assistant@1")):
        gateway.decide(action, version)
    gateway.decide("canary", "assistant@1", share=0.5, shadow=shadow)
    return gateway


async def versions(gateway: Bench, sessions: int = 60) -> dict[str, str]:
    """By session: which version answered."""
    found = {}
    for session in (f"session-{n}" for n in range(sessions)):
        answer = await gateway.chat(headers={"x-session-id": session})
        found[session] = answer.headers["x-trivium-version"]
    return found


async def test_a_session_stays_with_the_version_that_it_met(canary: Bench) -> None:
    first, again = await versions(canary), await versions(canary)
    assert first == again
    assert 15 < sum(version == "assistant@1" for version in first.values()) < 45
    told = {(record.session, record.version, record.arm) for record in await canary.records()}
    arms = {"assistant@0": "champion", "assistant@1": "candidate"}
    assert told == {(session, version, arms[version]) for session, version in first.items()}


async def test_a_request_without_a_session_is_drawn_by_itself(canary: Bench) -> None:
    seen = {(await canary.chat()).headers["x-trivium-version"] for _ in range(40)}
    assert seen == {"assistant@0", "assistant@1"}


async def test_everybody_follows_the_end_of_a_canary(canary: Bench) -> None:
    canary.decide("promote", "assistant@1")
    assert set((await versions(canary, 20)).values()) == {"assistant@1"}
    canary.decide("rollback", "assistant@0")
    assert set((await versions(canary, 20)).values()) == {"assistant@0"}


async def test_another_gateway_that_starts_in_the_middle_draws_the_same_sessions(
    canary: Bench, make: Callable[..., Bench]
) -> None:
    assert await versions(make()) == await versions(canary)


async def test_a_shadow_is_recorded_beside_the_answer_and_seen_by_nobody(shadow: Bench) -> None:
    assert set((await versions(shadow)).values()) == {"assistant@0"}
    await eventually_idle(shadow)
    records = await shadow.records()
    seen = {record.request_id: record for record in records if record.arm == "champion"}
    unseen = [record for record in records if record.arm == "shadow"]
    assert len(seen) == 60 and 15 < len(unseen) < 45
    for record in unseen:
        beside = seen[record.shadow_of or ""]
        assert (record.version, record.alias, record.session) == ("assistant@1", "assistant", beside.session)
        assert record.messages == beside.messages and record.answer == beside.answer
        assert record.request_id not in seen
    asked = [(body["model"], body["priority"]) for body in shadow.engine.asked]
    assert set(asked) == {("seed", 0), ("assistant@1", 10 * MOST_PRIORITY)}, "users come first"


async def test_a_shadow_of_a_stream_is_whole_and_of_an_unstored_request_empty(shadow: Bench) -> None:
    for n in range(20):
        await shadow.chat(headers={"x-session-id": f"s{n}"}, stream=True, store=False)
    await eventually_idle(shadow)
    unseen = [record for record in await shadow.records() if record.arm == "shadow"]
    assert unseen
    assert not any(record.streamed or record.stored or record.messages or record.answer for record in unseen)
    assert all(record.completion_tokens == 3 for record in unseen)


async def test_a_shadow_that_fails_harms_nobody(shadow: Bench) -> None:
    shadow.adapters.broken["assistant@1"] = "rank 64 is above 32"
    assert set((await versions(shadow, 20)).values()) == {"assistant@0"}
    await eventually_idle(shadow)
    assert {record.arm for record in await shadow.records()} == {"champion"}


async def test_shadows_give_way_when_there_are_too_many(make: Callable[..., Bench]) -> None:
    gateway = begin(make(most_shadows=2), shadow=True)
    gateway.adapters.gate = asyncio.Event()  # the candidate loads for ever
    assert set((await versions(gateway)).values()) == {"assistant@0"}
    gateway.adapters.gate.set()
    await eventually_idle(gateway)
    assert sum(record.arm == "shadow" for record in await gateway.records()) == 2


async def test_a_user_who_hangs_up_does_not_take_the_shadow_along(shadow: Bench) -> None:
    shadow.engine.pause = asyncio.Event()
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
    clients = [Client(shadow.app, shadow.key, CHAT, body, {"x-session-id": f"s{n}"}) for n in range(8)]
    await asyncio.wait_for(shadow.engine.reached_pause.wait(), 5)
    for client in clients:
        await client.hang_up()
    shadow.engine.pause.set()
    await eventually_idle(shadow)
    unseen = [record for record in await shadow.records() if record.arm == "shadow"]
    assert unseen and all(record.answer and not record.disconnected for record in unseen)


async def eventually_idle(gateway: Bench) -> None:
    """Until no task but the test's own is left: shadows answer in the background."""
    for _ in range(500):
        others = {task for task in asyncio.all_tasks() if "Shadows" in repr(task.get_coro())}
        if not others:
            return
        await asyncio.wait(others, timeout=5)
    raise AssertionError("shadows go on and on")
