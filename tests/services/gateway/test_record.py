"""The client's last byte leaves only after the record is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cluster.auth import MOST_PRIORITY, Keys
from cluster.records import Record
from tests.services.gateway.conftest import Bench, Client, events

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def same(record: Record) -> dict[str, Any]:
    """What must not depend on whether the answer was streamed."""
    return record.model_dump(exclude={"request_id", "time", "streamed", "ttft_s", "latency_s", "session"})


@pytest.mark.parametrize("calls", [[], [("weather", '{"city": "Zürich"}'), ("weather", '{"city": "Bern"}')]])
async def test_streaming_and_unary_chat_give_the_same_record(gateway: Bench, calls: list[tuple[str, str]]) -> None:
    gateway.engine.calls = calls
    body = {"model": "assistant", "messages": MESSAGES, "tools": [TOOL], "temperature": 0.5}
    await gateway.client.post("/v1/chat/completions", json=body)
    await gateway.client.post("/v1/chat/completions", json={**body, "stream": True})
    unary, streamed = await gateway.records()
    assert same(unary) == same(streamed)
    assert (unary.streamed, streamed.streamed) == (False, True)
    assert unary.messages == MESSAGES
    assert unary.tools == [TOOL]
    assert unary.sampling == {"temperature": 0.5}
    assert (unary.prompt_tokens, unary.completion_tokens) == (7, 3)
    assert unary.principal == "owner"
    assert unary.answer is not None
    if calls:
        assert unary.finish_reason == "tool_calls"
        said = [(call["function"]["name"], call["function"]["arguments"]) for call in unary.answer["tool_calls"]]
        assert said == calls
    else:
        assert unary.answer == {"role": "assistant", "content": "Hello, world"}
    assert streamed.ttft_s is not None and 0 < streamed.ttft_s <= streamed.latency_s


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi", "instructions": "be brief"}),
    ],
)
async def test_completions_and_responses_are_recorded_as_messages(
    gateway: Bench, path: str, body: dict[str, Any]
) -> None:
    for stream in (False, True):
        answer = await gateway.client.post(path, json={"model": "assistant", "stream": stream, **body})
        assert answer.status_code == 200
    unary, streamed = await gateway.records()
    assert same(unary) == same(streamed)
    assert unary.messages[-1] == {"role": "user", "content": "hi"}
    assert unary.answer == {"role": "assistant", "content": "Hello, world"}
    assert unary.completion_tokens == 3


async def test_tool_calls_and_results_of_a_responses_conversation_become_messages(gateway: Bench) -> None:
    gateway.engine.calls = [("weather", '{"city": "Bern"}')]
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    tool = {"type": "function", "name": "weather", "parameters": {}}
    await gateway.client.post("/v1/responses", json={"model": "assistant", "input": given, "tools": [tool]})
    (record,) = await gateway.records()
    assert [message["role"] for message in record.messages] == ["user", "assistant", "tool"]
    assert record.tools == [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    assert record.answer is not None and record.answer["tool_calls"][0]["function"]["name"] == "weather"
    assert record.finish_reason == "tool_calls"


async def test_several_choices_are_all_kept(gateway: Bench) -> None:
    for stream in (False, True):
        await gateway.chat(n=3, stream=stream)
    unary, streamed = await gateway.records()
    assert same(unary) == same(streamed)
    assert unary.alternatives == [unary.answer, unary.answer]


async def test_a_stream_holds_back_its_end_until_the_record_is_on_disk(gateway: Bench) -> None:
    gateway.disk.free.clear()
    body = {"model": "assistant", "messages": MESSAGES, "stream": True}
    client = Client(gateway.app, gateway.key, "/v1/chat/completions", body)
    await gateway.disk.waiting.wait()
    assert b"world" in client.received
    assert b'finish_reason":"' not in client.received and b"[DONE]" not in client.received
    gateway.disk.free.set()
    await client.task
    assert client.ended and client.received.rstrip().endswith(b"[DONE]")
    assert len(await gateway.records()) == 1


async def test_a_unary_answer_waits_whole_for_its_record(gateway: Bench) -> None:
    gateway.disk.free.clear()
    client = Client(gateway.app, gateway.key, "/v1/chat/completions", {"model": "assistant", "messages": MESSAGES})
    await gateway.disk.waiting.wait()
    assert client.received == b"" and client.status is None
    gateway.disk.free.set()
    await client.task
    assert client.status == 200 and client.ended


async def test_usage_is_counted_but_shown_only_to_those_who_asked(gateway: Bench) -> None:
    silent = await gateway.chat(stream=True)
    asked = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert not any("usage" in event for event in events(silent.text)[:-1])
    assert events(asked.text)[-2]["usage"]["completion_tokens"] == 3
    assert events(silent.text)[-1] == events(asked.text)[-1] == "[DONE]"
    assert [record.completion_tokens for record in await gateway.records()] == [3, 3]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_recorded_as_such(gateway: Bench, stream: bool) -> None:
    gateway.engine.pause = asyncio.Event()
    body = {"model": "assistant", "messages": MESSAGES, "stream": stream}
    client = Client(gateway.app, gateway.key, "/v1/chat/completions", body)
    await gateway.engine.reached_pause.wait()
    await client.hang_up()
    (record,) = await gateway.records()
    assert record.disconnected
    assert record.streamed == stream
    if stream:
        assert record.answer == {"role": "assistant", "content": "Hello"}


async def test_a_client_that_hangs_up_while_the_record_is_written_loses_no_record(gateway: Bench) -> None:
    gateway.disk.free.clear()
    client = Client(gateway.app, gateway.key, "/v1/chat/completions", {"model": "assistant", "messages": MESSAGES})
    await gateway.disk.waiting.wait()
    await client.hang_up()
    gateway.disk.free.set()
    assert len(await gateway.records()) == 1


async def test_store_false_keeps_content_out_of_the_log(gateway: Bench) -> None:
    secret = "my secret"
    await gateway.chat(text=secret, store=False, metadata={"note": secret}, stop=[secret], temperature=0.1)
    gateway.engine.error = (400, {"error": {"message": f"bad: {secret}", "type": "BadRequestError", "code": 400}})
    await gateway.chat(text=secret, store=False)
    kept, failed = await gateway.records()
    assert not kept.stored and kept.messages == [] and kept.answer is None and kept.sampling == {"temperature": 0.1}
    assert kept.completion_tokens == 3
    assert failed.status == 400 and failed.error == "withheld"
    assert secret not in kept.model_dump_json() + failed.model_dump_json()
    assert "store" not in gateway.engine.asked[0]


async def test_an_engine_error_is_answered_in_openai_words_and_recorded(gateway: Bench) -> None:
    gateway.engine.error = (
        400,
        {"error": {"message": "maximum context length is 8", "type": "BadRequestError", "code": 400}},
    )
    answer = await gateway.chat()
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    (record,) = await gateway.records()
    assert record.status == 400 and record.error == "maximum context length is 8" and record.answer is None


async def test_an_engine_that_dies_is_answered_with_500_and_recorded(gateway: Bench) -> None:
    gateway.engine.crash = True
    answer = await gateway.chat()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_failed"
    (record,) = await gateway.records()
    assert record.status == 500 and record.error


async def test_a_full_disk_stops_answers_and_recovers_by_itself(gateway: Bench) -> None:
    gateway.disk.full = True
    first = await gateway.chat()
    assert first.status_code == 503 and first.headers["retry-after"]
    assert first.json()["error"]["code"] == "log_unavailable"
    asked = len(gateway.engine.asked)
    assert (await gateway.chat()).status_code == 503
    assert len(gateway.engine.asked) == asked, "the engine must not work for answers that nobody gets"
    gateway.disk.full = False
    async with asyncio.timeout(5):
        while (await gateway.chat()).status_code != 200:
            await asyncio.sleep(0.01)


async def test_a_stream_whose_record_fails_ends_without_a_finish(gateway: Bench) -> None:
    gateway.disk.full = True
    answer = await gateway.chat(stream=True)
    seen = events(answer.text)
    assert seen[-1]["error"]["code"] == "log_unavailable"
    assert "[DONE]" not in seen and not any(c.get("finish_reason") for e in seen[:-1] for c in e["choices"])


async def test_an_evaluation_waits_behind_live_traffic_and_is_not_logged(gateway: Bench) -> None:
    answer = await gateway.chat(headers={"x-trivium-purpose": "evaluation"})
    assert answer.status_code == 200
    await gateway.chat(priority=-100)
    last = Keys(gateway.state).create("batch", ("infer",), priority=MOST_PRIORITY)
    await gateway.chat(headers={"authorization": f"Bearer {last}"})
    evaluation, live, batch = (body["priority"] for body in gateway.engine.asked)
    assert evaluation > batch == MOST_PRIORITY > live == 0  # lower is served first
    assert len(await gateway.records()) == 2


async def test_the_session_is_the_callers_or_the_request_itself(gateway: Bench) -> None:
    await gateway.chat(headers={"x-session-id": "s-1"})
    answer = await gateway.chat()
    first, second = await gateway.records()
    assert first.session == "s-1"
    assert second.session == second.request_id == answer.headers["x-request-id"]


async def test_a_busy_gateway_records_every_answer(make: Callable[..., Bench]) -> None:
    gateway = make()
    answers = await asyncio.gather(*(gateway.chat(stream=bool(i % 2)) for i in range(64)))
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 64
    assert {record.request_id for record in await gateway.records()} == ids
