"""What callers may say to the engine."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.errors import Refusal
from services.gateway.parameters import CHAT, COMPLETIONS, RESPONSES, restrict
from tests.services.gateway.conftest import Bench

MESSAGES = [{"role": "user", "content": "hi"}]


async def test_what_callers_must_not_set_never_reaches_the_engine(gateway: Bench) -> None:
    forbidden = {
        "priority": -1, "cache_salt": "x", "chat_template": "{{ x }}", "return_token_ids": True, "prompt_logprobs": 1,
        "request_id": "mine", "kv_transfer_params": {}, "vllm_xargs": {"a": 1}, "documents": [],
        "mm_processor_kwargs": {},
        "add_generation_prompt": False, "continue_final_message": True, "return_prompt_text": True, "something_new": 1,
    }  # fmt: skip
    await gateway.chat(temperature=0.3, **forbidden)
    (asked,) = gateway.engine.asked
    assert asked == {
        "model": "seed",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.3,
        "priority": 0,
    }


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
        restrict(path, body, most_choices=8)
    assert refusal.value.status == 400 and refusal.value.param == param
