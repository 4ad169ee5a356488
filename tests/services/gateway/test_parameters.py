"""What callers may say to the engine."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

import pytest

from cluster.auth import Keys
from services.gateway.bounds import Bounds
from services.gateway.errors import Refusal
from services.gateway.parameters import CHAT, COMPLETIONS, RESPONSES, restrict
from tests.services.gateway.conftest import Bench

MESSAGES = [{"role": "user", "content": "hi"}]


async def test_what_callers_must_not_set_never_reaches_the_engine(gateway: Bench) -> None:
    forbidden = {
        "priority": -1, "cache_salt": "x", "return_token_ids": True, "prompt_logprobs": 1,
        "request_id": "mine", "vllm_xargs": {"a": 1}, "documents": [],
        "add_generation_prompt": False, "continue_final_message": True, "return_prompt_text": True, "something_new": 1,
    }  # fmt: skip
    await gateway.chat(temperature=0.3, **forbidden)
    (asked,) = gateway.engine.asked
    assert asked == {
        "model": "seed",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.3,
        "priority": 0,
        "cache_salt": ANY,
    }
    assert asked["cache_salt"] != "x"


async def test_template_switches_pass_but_template_arguments_do_not(gateway: Bench) -> None:
    await gateway.chat(chat_template_kwargs={"enable_thinking": False, "messages": "mine"})
    assert gateway.engine.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": MESSAGES}, "model"),
        (CHAT, {"model": "", "messages": MESSAGES}, "model"),
        (CHAT, {"model": "m"}, "messages"),
        (CHAT, {"model": "m", "messages": []}, "messages"),
        (CHAT, {"model": "m", "messages": ["hi"]}, "messages"),
        (CHAT, {"model": "m", "messages": MESSAGES, "n": 0}, "n"),
        (CHAT, {"model": "m", "messages": MESSAGES, "n": 9}, "n"),
        (CHAT, {"model": "m", "messages": MESSAGES, "n": True}, "n"),
        (CHAT, {"model": "m", "messages": MESSAGES, "stream": "yes"}, "stream"),
        (CHAT, {"model": "m", "messages": MESSAGES, "store": 0}, "store"),
        (CHAT, {"model": "m", "messages": MESSAGES, "tools": {}}, "tools"),
        (CHAT, {"model": "m", "messages": MESSAGES, "stream_options": 1}, "stream_options"),
        (CHAT, {"model": "m", "messages": MESSAGES, "chat_template_kwargs": []}, "chat_template_kwargs"),
        (COMPLETIONS, {"model": "m", "prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS, {"model": "m"}, "prompt"),
        (RESPONSES, {"model": "m"}, "input"),
        (RESPONSES, {"model": "m", "input": ["hi"]}, "input"),
        (RESPONSES, {"model": "m", "input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        (RESPONSES, {"model": "m", "input": "hi", "background": True}, "background"),
    ],
)
def test_wrong_types_are_refused_by_name(path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refusal:
        restrict(path, body, Bounds())
    assert refusal.value.status == 400 and refusal.value.param == param


async def test_only_evaluations_get_the_tokens_of_their_answer(gateway: Bench) -> None:
    await gateway.chat(return_token_ids=True)
    await gateway.chat(return_token_ids=True, headers={"x-trivium-purpose": "evaluation"})
    assert ["return_token_ids" in asked for asked in gateway.engine.asked] == [False, True]


async def test_principals_share_no_prefix_cache_and_each_has_its_own_over_replicas(make: Any) -> None:
    gateway, other = make(), make()
    alice = {"authorization": f"Bearer {Keys(gateway.state).create('alice', ('infer',))}"}
    for each, headers in ((gateway, {}), (gateway, alice), (other, {}), (other, alice)):
        await each.chat(headers=headers)
    (owner, user), (again, user_again) = (
        [body["cache_salt"] for body in each.engine.asked] for each in (gateway, other)
    )
    assert (owner, user) == (again, user_again) and owner != user
    assert all(len(salt) >= 32 and salt.isalnum() for salt in (owner, user)) and "alice" not in user


async def test_where_the_settings_say_so_the_prefix_cache_is_shared(make: Any) -> None:
    gateway = make(shared_prefix_cache=True)
    await gateway.chat(cache_salt="x")
    assert "cache_salt" not in gateway.engine.asked[0]


async def test_a_keys_priority_reaches_the_engine(gateway: Bench) -> None:
    first = Keys(gateway.state).create("urgent", ("infer",), priority=-5)
    await gateway.chat(headers={"authorization": f"Bearer {first}"})
    assert gateway.engine.asked[0]["priority"] == -5


async def test_an_expression_reaches_the_engine_as_an_automaton_and_the_log_as_it_was_sent(gateway: Bench) -> None:
    given = {"regex": '(\\w+\\s?)*"é'}
    assert (await gateway.chat(structured_outputs=given)).status_code == 200
    (asked,) = gateway.engine.asked
    assert asked["structured_outputs"] == {"grammar": 'root ::= Regex("(\\\\w+\\\\s?)*\\"é")'}
    (record,) = await gateway.records()
    assert record.sampling["structured_outputs"] == given
