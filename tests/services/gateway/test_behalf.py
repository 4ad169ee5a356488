"""Agents ask on behalf of a principal, and nobody else can."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from cluster.auth import Keys, Limits, mint_key
from services.agents.loop import ModelError, Turn
from services.agents.model import Deployment, pause_s, thought
from services.gateway.behalf import VALID_S, sign, verified
from services.gateway.forward import HttpForwarder
from tests.services.gateway.conftest import Bench, client_of
from tests.services.gateway.test_route import Prefixed, listening

HEADER = "x-trivium-behalf"


def turn(principal: str, model: str = "assistant", **more: Any) -> Turn:
    return Turn(principal, "thread-1", model, [{"role": "user", "content": "hi"}], [], 0.0, 16, **more)


def test_only_what_was_signed_is_believed_and_only_for_a_minute() -> None:
    key, now = b"k" * 32, 1000.0
    value = sign(key, "anna", now)
    assert verified(key, value, now + VALID_S) == "anna"
    assert verified(key, value, now + VALID_S + 1) is None
    assert verified(b"x" * 32, value, now) is None
    for forged in (b"", b"anna", value.replace(b"anna", b"owner"), value.replace(b"1000", b"2000"), b"\xff \xff"):
        assert verified(key, forged, now) is None


async def test_a_caller_cannot_speak_for_others(gateway: Bench) -> None:
    Keys(gateway.state).create("anna")
    nobody = client_of(gateway.app, "wrong")
    forged = sign(b"guessed", "anna", time.time()).decode()
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}
    assert (await nobody.post("/v1/chat/completions", json=body, headers={HEADER: forged})).status_code == 401
    assert (await gateway.chat(headers={HEADER: forged})).status_code == 200
    assert [record.principal for record in await gateway.records()] == ["owner"]


async def test_it_is_the_principals_request_with_its_limits_and_its_thread(gateway: Bench) -> None:
    keys = Keys(gateway.state)
    keys.create("anna", ("agents",), Limits(requests_per_minute=1), priority=-7)
    async with listening(gateway.app) as address:
        model = Deployment(address, mint_key(gateway.state))
        said = await model(turn("anna"))
        assert said.message["role"] == "assistant" and said.version == "assistant@0"
        (record,) = await gateway.records()
        assert (record.principal, record.session, record.request_id) == ("anna", "thread-1", said.request_id)
        (asked,) = gateway.engine.asked
        assert (asked["priority"], asked["return_token_ids"], asked["logprobs"]) == (-7, True, True)
        status, headers, _ = await model._post(turn("anna"), {"model": "assistant", "messages": [{"role": "user"}]})
        assert status == 429 and int(headers["retry-after"]) > 0
        keys.revoke("anna")
        with pytest.raises(ModelError, match=r"the model cannot answer \(401\): no valid API key"):
            await model(turn("anna"))
        await model.close()


async def test_without_it_nobody_sees_token_ids(gateway: Bench) -> None:
    await gateway.chat(return_token_ids=True)
    assert "return_token_ids" not in gateway.engine.asked[0]


async def test_it_reaches_a_version_that_another_application_holds(make: Callable[..., Bench]) -> None:
    full, route = "assistant@1", "/versions/assistant-v1"
    far = make(full, route)
    async with listening(Prefixed(far.app, route)) as address:
        near = make("seed", forward=HttpForwarder(address, mint_key(far.state)))
        near.publish("assistant", 1, form="full")
        for action, version in (("create", "assistant@0"), ("stage", full)):
            near.decide(action, version)
        far.parts.desired.refresh()
        Keys(near.state).create("anna", ("agents",))
        async with listening(near.app) as own:
            model = Deployment(own, mint_key(near.state))
            assert (await model(turn("anna", full))).version == full
            await model.close()
        assert [record.principal for record in await far.records()] == ["anna"]


async def test_what_the_engine_refuses_ends_the_question(gateway: Bench) -> None:
    async with listening(gateway.app) as address:
        model = Deployment(address, mint_key(gateway.state))
        with pytest.raises(ModelError, match=r"the model cannot answer \(404\)"):
            await model(turn("owner", "nobody"))
        await model.close()


def test_an_answer_is_read_with_its_tokens() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0}
    answer = {
        "choices": [
            {
                "message": {"content": None, "tool_calls": [call]},
                "token_ids": [1, 2],
                "logprobs": {"content": [{"logprob": -0.123456789}, {"logprob": -1}]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    said = thought(answer, {"x-request-id": "req-1", "x-trivium-version": "a@1"})
    assert said.message["tool_calls"] == [{"id": "c", "type": "function", "function": call["function"]}]
    assert (said.token_ids, said.logprobs, said.prompt_tokens) == ([1, 2], [-0.12346, -1], 3)
    with pytest.raises(ModelError):
        thought({"choices": []}, {})


def test_pauses_grow_and_obey_the_server() -> None:
    assert 1.6 <= pause_s("2", 0) <= 2.4
    assert 0.2 <= pause_s(None, 0) <= 0.3 and 24 <= pause_s(None, 99) <= 36
    assert pause_s("3600", 0) <= 36
