"""The `openai` Python client, unchanged, against the cluster."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from cluster import models
from tests.conftest import Cluster
from tests.e2e.using import client, tool

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def brief(name: str, *parameters: str) -> dict[str, Any]:
    """A tool whose arguments are so short that no call is cut, whatever the version that answers has learned."""
    given = tool(name, *parameters)
    for schema in given["function"]["parameters"]["properties"].values():
        schema["maxLength"] = 16
    return given


TOOLS = [
    brief("play_music", "artist", "year"),
    brief("book_table", "party_size", "city"),
    brief("get_weather", "city", "day"),
    brief("rate_book", "title", "stars"),
    brief("set_alarm", "time"),
]
CALL = 256
"""Tokens that are enough for a call of each, were every letter of its arguments an escape (`\\u0041`)."""
ASKED = ["Play something by Nina Simone", "A table for 5 in Lyon", "Will it rain in Oslo on Friday?", "Emma: 4 stars"]


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[OpenAI]:
    with client(cluster) as opened:
        yield opened


def ask(api: OpenAI, text: str, **more: Any) -> Any:
    given = {"model": "assistant", "max_tokens": 48, "temperature": 0, **more}
    return api.chat.completions.create(messages=[{"role": "user", "content": text}], **given)


def test_chat(api: OpenAI) -> None:
    answer = ask(api, "Good morning")
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0


def test_streaming_says_the_same_as_one_piece(api: OpenAI) -> None:
    whole = ask(api, "Good morning").choices[0].message.content or ""
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(api, "Good morning", stream=True)]
    assert "".join(pieces) == whole


def test_tool_calls_are_calls_of_offered_tools_with_json_arguments(api: OpenAI) -> None:
    for text in ASKED:
        answer = ask(api, text, tools=TOOLS, tool_choice="required", max_tokens=CALL)
        assert answer.choices[0].message.tool_calls
        for call in answer.choices[0].message.tool_calls:
            assert call.function.name in {given["function"]["name"] for given in TOOLS}
            assert isinstance(json.loads(call.function.arguments), dict)


def test_streamed_tool_call_adds_up_to_the_whole_one(api: OpenAI) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "max_tokens": CALL}
    whole = ask(api, ASKED[0], **asked).choices[0].message.tool_calls[0].function
    name, arguments = "", ""
    for chunk in ask(api, ASKED[0], stream=True, **asked):
        for piece in chunk.choices[0].delta.tool_calls or []:
            if piece.index == 0:
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
    assert (name, json.loads(arguments)) == (whole.name, json.loads(whole.arguments))


def test_request_that_offers_some_tools_never_gets_a_call_to_another(api: OpenAI) -> None:
    dice = random.Random(0)
    for number in range(24):
        offered = dice.sample(TOOLS, dice.randint(1, 3))
        answer = ask(api, ASKED[number % len(ASKED)], tools=offered, tool_choice="required", max_tokens=CALL)
        called = {call.function.name for call in answer.choices[0].message.tool_calls or []}
        assert called and called <= {given["function"]["name"] for given in offered}


def test_renamed_tools_are_called_by_their_new_names(api: OpenAI) -> None:
    dice = random.Random(1)
    for text in ASKED * 3:
        names = {given["function"]["name"]: f"fn_{dice.randrange(10**6)}" for given in TOOLS}
        renamed = [{**g, "function": {**g["function"], "name": names[g["function"]["name"]]}} for g in TOOLS]
        choice = ask(api, text, tools=renamed, tool_choice="required", max_tokens=CALL).choices[0]
        called = {call.function.name for call in choice.message.tool_calls or []}
        assert called and called <= set(names.values()), choice.message


def test_named_tool_is_called(api: OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "set_alarm"}}
    answer = ask(api, ASKED[0], tools=TOOLS, tool_choice=choice, max_tokens=CALL)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["set_alarm"]


def test_call_ends_where_its_tool_says_though_the_model_would_go_on(api: OpenAI) -> None:
    letter = Tokenizer.from_file(str(models.seed_folder() / "tokenizer.json")).token_to_id("z")
    answer = ask(api, ASKED[0], tools=TOOLS[:1], tool_choice="required", max_tokens=CALL, logit_bias={letter: 100})
    (call,) = answer.choices[0].message.tool_calls
    assert "z" * 16 in json.loads(call.function.arguments).values()


def test_models_are_listed_and_found_by_name(api: OpenAI) -> None:
    listed = [model.id for model in api.models.list()]
    assert "assistant" in listed and not any("/" in name for name in listed)
    assert api.models.retrieve("assistant").id == "assistant"


def test_responses(api: OpenAI) -> None:
    answer = api.responses.create(model="assistant", input="Good morning", max_output_tokens=24, temperature=0)
    assert answer.status in ("completed", "incomplete") and answer.usage and answer.usage.output_tokens > 0


def test_errors_come_as_the_clients_own_exceptions(api: OpenAI, cluster: Cluster) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        ask(api, "hello", model="nobody")
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("nobody")
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model="assistant", messages="hello")
    with pytest.raises(openai.AuthenticationError):
        ask(api.with_options(api_key="sk-trivium-wrong"), "hello")


def test_feedback_is_for_answers_of_this_cluster(api: OpenAI) -> None:
    raw = api.chat.completions.with_raw_response.create(
        model="assistant", messages=[{"role": "user", "content": "hello"}], max_tokens=4
    )
    api.post("/feedback", body={"request_id": raw.headers["x-request-id"], "score": 1}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        api.post("/feedback", body={"request_id": "req-" + "0" * 40, "score": 1}, cast_to=object)
