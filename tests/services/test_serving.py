"""The real thing: vLLM on Ray Serve behind HAProxy, and what the public port takes and refuses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from cluster.client import Client
from cluster.log import Log, LogSettings
from cluster.records import Entry, Record
from tests.conftest import Cluster

pytestmark = pytest.mark.ray

TOOL = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Switch a light",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"room": {"enum": ["kitchen", "hall"]}, "on": {"type": "boolean"}},
            "required": ["room", "on"],
            "additionalProperties": False,
        },
    },
}
HI: Any = [{"role": "user", "content": "please switch on the light in the kitchen"}]


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=cluster.base_url, api_key=cluster.api_key, max_retries=0, timeout=300)


def records(cluster: Cluster) -> dict[str, Record]:
    """What is logged. Segments first: what the compactor moves meanwhile is in the table then."""
    log = Log(cluster.state / "log", LogSettings())
    entries: list[Entry] = [*log.entries(), *log.read(None)]
    return {entry.request_id: entry for entry in entries if isinstance(entry, Record)}


def test_chat_whole_and_streamed_say_the_same_and_are_logged_alike(cluster: Cluster, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="assistant", messages=HI, max_tokens=16, temperature=0)
    whole = raw.parse()
    with client.chat.completions.with_streaming_response.create(
        model="assistant", messages=HI, max_tokens=16, temperature=0, stream=True
    ) as response:
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
        streamed_id = response.headers["x-request-id"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == whole.choices[0].message.content
    with Client(cluster.settings, cluster.api_key) as admin:  # other tests may have promoted meanwhile
        assert raw.headers["x-trivium-version"] == admin.rollout()["aliases"]["assistant"]["champion"]
    assert raw.headers["x-request-id"] in whole.id
    unary, streamed = (records(cluster)[i] for i in (raw.headers["x-request-id"], streamed_id))
    varying = {"request_id", "session", "time", "streamed", "ttft_s", "latency_s"}
    assert unary.model_dump(exclude=varying) == streamed.model_dump(exclude=varying)
    assert whole.usage and unary.completion_tokens == whole.usage.completion_tokens


def test_a_required_tool_call_has_the_offered_name_and_valid_arguments(client: openai.OpenAI) -> None:
    for stream in (False, True):
        answer: Any = client.chat.completions.create(
            model="assistant", messages=HI, tools=[TOOL], tool_choice="required", max_tokens=256, stream=stream
        )  # type: ignore[call-overload]
        if stream:
            parts = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
            name = "".join(part.function.name or "" for part in parts)
            arguments = "".join(part.function.arguments or "" for part in parts)
        else:
            assert answer.choices[0].finish_reason != "length", answer.choices[0].message
            (call,) = answer.choices[0].message.tool_calls[:1]
            name, arguments = call.function.name, call.function.arguments
        assert name == "set_light"
        given = json.loads(arguments)
        assert given["room"] in ("kitchen", "hall") and isinstance(given["on"], bool)


def test_responses_and_completions_answer(cluster: Cluster, client: openai.OpenAI) -> None:
    whole = client.responses.create(model="assistant", input="hello", max_output_tokens=8, temperature=0)
    events = list(
        client.responses.create(model="assistant", input="hello", max_output_tokens=8, temperature=0, stream=True)
    )
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    assert client.completions.create(model="seed", prompt="hello", max_tokens=4).choices[0].finish_reason
    assert whole.id.removeprefix("resp_") in records(cluster)


def test_models_are_listed_and_feedback_is_taken(cluster: Cluster, client: openai.OpenAI) -> None:
    assert {"assistant", "seed"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("assistant").id == "assistant"
    answer = client.chat.completions.create(model="assistant", messages=HI, max_tokens=4)
    taken = client.post("/feedback", body={"request_id": answer.id, "score": 1.0}, cast_to=httpx.Response)
    assert taken.status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.post("/feedback", body={"request_id": "req-0", "score": 1.0}, cast_to=httpx.Response)


def test_the_public_port_answers_the_allow_list_and_nothing_else(cluster: Cluster, client: openai.OpenAI) -> None:
    root = cluster.base_url.removesuffix("/v1")
    key = {"authorization": f"Bearer {cluster.api_key}"}
    for path in ("/docs", "/openapi.json", "/metrics", "/tokenize", "/v1/load_lora_adapter", "/load", "/invocations"):
        assert httpx.get(root + path).status_code == 401
        assert httpx.get(root + path, headers=key).status_code == 404
        assert httpx.post(root + path, headers=key, json={}).status_code == 404
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=HI)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="assistant", messages=HI, temperature=-1)


def test_what_callers_say_to_serve_by_header_is_not_heard(cluster: Cluster) -> None:
    given = {
        "authorization": f"Bearer {cluster.api_key}",
        "x-request-id": "mine",
        "x-request-timeout-seconds": "0.000001",
        "serve_multiplexed_model_id": "/etc",
    }
    body = {"model": "assistant", "messages": HI, "max_tokens": 4}
    answer = httpx.post(f"{cluster.base_url}/chat/completions", json=body, headers=given, timeout=60)
    assert answer.status_code == 200
    (request_id,) = answer.headers.get_list("x-request-id")
    assert request_id.startswith("req-")
