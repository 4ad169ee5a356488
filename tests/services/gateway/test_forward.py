"""A version with weights of its own answers in another application: the same alias, arms and limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cluster.auth import mint_key
from services.gateway.forward import HttpForwarder
from tests.services.gateway.conftest import Bench, client_of
from tests.services.gateway.test_canary import eventually_idle
from tests.services.gateway.test_limits import Book, key
from tests.services.gateway.test_route import Prefixed, listening

FULL, ROUTE = "assistant@1", "/versions/assistant-v1"


@pytest.fixture
async def pair(make: Callable[..., Bench]) -> AsyncIterator[tuple[Bench, Bench]]:
    """The gateway of the base, and that of a version with weights of its own, which is staged."""
    book = Book()
    far = make(FULL, ROUTE, book=book)
    async with listening(Prefixed(far.app, ROUTE)) as address:
        near = make("seed", forward=HttpForwarder(address, mint_key(far.state)), book=book)
        near.publish("assistant", 1, form="full")
        for action, version in (("create", "assistant@0"), ("stage", FULL)):
            near.decide(action, version)
        far.parts.desired.refresh()
        yield near, far


async def test_it_answers_as_candidate_and_as_champion(pair: tuple[Bench, Bench]) -> None:
    near, far = pair
    answers = [await near.chat("assistant@candidate"), await near.chat(FULL), await near.chat()]
    near.decide("promote", FULL)
    answers.append(await near.chat())
    seen = [answer.headers["x-trivium-version"] for answer in answers]
    assert seen == [FULL, FULL, "assistant@0", FULL]
    assert [body["model"] for body in far.engine.asked] == [FULL] * 3
    told = [(r.alias, r.version, r.arm) for r in await near.records()]  # they share one log
    direct, champion = (None, FULL, "direct"), ("assistant", FULL, "champion")
    assert told.count(direct) == 2 and told.count(champion) == 1 and len(told) == 4


async def test_a_canary_draws_between_the_two_engines(pair: tuple[Bench, Bench]) -> None:
    near, _ = pair
    near.decide("canary", FULL, share=0.5)
    seen = [(await near.chat(headers={"x-session-id": f"s{n}"})).headers["x-trivium-version"] for n in range(40)]
    assert 8 < seen.count(FULL) < 32 and set(seen) == {FULL, "assistant@0"}
    told = {(r.alias, r.version, r.arm) for r in await near.records()}
    assert told == {("assistant", FULL, "candidate"), ("assistant", "assistant@0", "champion")}


@pytest.mark.parametrize("later", [("rollback", "assistant@0"), ("stage", "assistant@2")])
async def test_no_request_falls_between_two_gateways_of_which_one_knows_more(
    pair: tuple[Bench, Bench], later: tuple[str, str]
) -> None:
    near, far = pair
    near.decide("promote", FULL)
    far.decide(*later)
    assert far.parts.desired.rollout.sequence > near.parts.desired.rollout.sequence
    answer = await near.chat()
    assert (answer.status_code, answer.headers["x-trivium-version"]) == (200, FULL)


async def test_a_caller_cannot_say_where_a_request_goes(pair: tuple[Bench, Bench]) -> None:
    near, _ = pair
    said = json.dumps([FULL, "somebody@9", None, "assistant", "shadow", "req-other"])
    answer = await near.chat(headers={"x-trivium-routed": said, "x-trivium-forwarded": "yes"})
    assert answer.headers["x-trivium-version"] == "assistant@0"
    (record,) = await near.records()
    assert (record.version, record.arm, record.shadow_of) == ("assistant@0", "champion", None)


async def test_what_comes_to_the_wrong_engine_is_not_answered_by_it(pair: tuple[Bench, Bench]) -> None:
    near, far = pair
    near.parts.desired.routes["other"] = ROUTE
    answer = await near.chat("other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "base_unavailable")
    assert far.engine.asked == []


async def test_its_shadow_falls_on_the_champions_answers_and_costs_the_caller_nothing(
    pair: tuple[Bench, Bench],
) -> None:
    near, far = pair
    near.decide("canary", FULL, share=0.999999, shadow=True)
    client = client_of(near.app, key(near, tokens_per_minute=300))
    left: list[Any] = []
    for stream in (False, True, False):
        body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.headers["x-trivium-version"] == "assistant@0"
        left.append(answer.headers["x-ratelimit-remaining-tokens"])
        await eventually_idle(near)
    assert left == ["300", "290", "280"]
    records = [record for record in await near.records() if record.arm == "champion"]
    unseen = [record for record in await far.records() if record.arm == "shadow"]
    assert {record.shadow_of for record in unseen} == {record.request_id for record in records} and len(unseen) == 3
    assert {(record.alias, record.version, record.streamed) for record in unseen} == {("assistant", FULL, False)}
    assert [record.session for record in unseen] == [record.session for record in records]


async def test_a_gateway_says_whom_it_reaches(make: Callable[..., Bench]) -> None:
    far = make(FULL, ROUTE)
    async with listening(Prefixed(far.app, ROUTE)) as address:
        forward = HttpForwarder(address, b"k")
        seen = [await forward.reaches(route) for route in (ROUTE, "/versions/other-v1", None)]
        await forward.close()
    away = HttpForwarder("http://127.0.0.1:9", b"k")
    assert [*seen, await away.reaches(ROUTE)] == [True, False, False, False]
    await away.close()
