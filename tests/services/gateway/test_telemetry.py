"""What the gateway tells of its answers: to Prometheus through Ray, and as spans to an OpenTelemetry collector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster import telemetry
from cluster.telemetry import Feed
from tests.cluster.test_telemetry import Seen
from tests.receiver import Receiver, Span
from tests.services.gateway.conftest import Bench, Client, client_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER = 2
"""`SpanKind.SPAN_KIND_SERVER` of OTLP."""
SAID = "something-that-somebody-said"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    feed = Feed(lambda: (seen, None))
    feed.open()
    monkeypatch.setattr(telemetry, "_feed", feed)
    return seen


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A collector that this process exports its spans to, from the next one on."""
    receiver = Receiver().start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("TRIVIUM_HTTP_PORT", "21000")
    feed = Feed(telemetry._open_sinks)
    feed.open()
    monkeypatch.setattr(telemetry, "_feed", feed)
    yield receiver
    receiver.stop()


def exported(receiver: Receiver) -> list[Span]:
    telemetry.flush()
    return receiver.spans


async def test_answers_refusals_and_feedback_are_counted(gateway: Bench, seen: Seen) -> None:
    answer = await gateway.chat(stream=True)
    await gateway.client.post("/v1/feedback", json={"request_id": answer.headers["x-request-id"], "score": 0.5})
    await client_of(gateway.app, "sk-wrong").get("/v1/models")
    telemetry.flush()
    assert seen.of("trivium_requests_total") == {("assistant", "assistant@0", "champion", "2xx"): 1}
    assert seen.of("trivium_completion_tokens_total") == {("assistant", "assistant@0", "champion"): 3}
    assert seen.of("trivium_time_to_first_token_seconds").keys() == {("assistant", "assistant@0", "champion")}
    assert seen.of("trivium_refusals_total") == {("401", "invalid_api_key"): 1}
    assert seen.of("trivium_feedback_total") == {(): 1} and seen.of("trivium_feedback_score_total") == {(): 0.5}
    assert seen.of("trivium_log_entries_total") == {(): 2} and 0 < seen.of("trivium_log_sync_seconds")[()] < 60


async def test_a_request_is_in_flight_until_its_client_has_gone(gateway: Bench, seen: Seen) -> None:
    gateway.engine.pause = asyncio.Event()
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    client = Client(gateway.app, gateway.key, "/v1/chat/completions", body)
    await gateway.engine.reached_pause.wait()
    feed = telemetry._feed
    assert feed
    feed.tell_gauges()
    assert seen.of("trivium_requests_in_flight") == {("assistant", "assistant@0", "champion"): 1}
    await client.hang_up()
    feed.tell_gauges()
    feed.flush()
    assert seen.of("trivium_requests_in_flight") == {("assistant", "assistant@0", "champion"): 0}
    assert seen.of("trivium_requests_total") == {("assistant", "assistant@0", "champion", "disconnected"): 1}


async def test_evaluation_is_not_counted_as_traffic(gateway: Bench, seen: Seen) -> None:
    await gateway.chat(headers={"x-trivium-purpose": "evaluation"})
    telemetry.flush()
    assert seen.of("trivium_requests_total") == {}


async def test_an_answer_is_one_span_that_continues_the_callers_trace(gateway: Bench, receiver: Receiver) -> None:
    answer = await gateway.chat(
        text=SAID, temperature=0.5, max_tokens=20, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}
    )
    [span] = exported(receiver)
    assert (span.name, span.kind, span.failed) == ("chat assistant", SERVER, False)
    assert (span.trace, span.parent) == (TRACE, PARENT)
    assert span.begin_s <= span.end_s
    assert span.resource["service.name"] == "trivium"
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "trivium",
        "gen_ai.request.model": "assistant",
        "gen_ai.request.stream": False,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.response.id": answer.headers["x-request-id"],
        "gen_ai.response.model": "assistant@0",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": 21000,
        "trivium.alias": "assistant",
        "trivium.version": "assistant@0",
        "trivium.arm": "champion",
        "url.path": "/v1/chat/completions",
    }


async def test_spans_say_how_long_a_stream_took_and_began(gateway: Bench, receiver: Receiver) -> None:
    await gateway.client.post("/v1/completions", json={"model": "seed", "prompt": SAID, "stream": True})
    [span] = exported(receiver)
    [record] = await gateway.records()
    assert span.name == "text_completion seed@0" and span.parent == ""
    assert span.attributes["gen_ai.response.time_to_first_chunk"] == record.ttft_s
    assert span.begin_s == pytest.approx(record.time, abs=1e-5)
    assert span.end_s - span.begin_s == pytest.approx(record.latency_s, abs=1e-5)
    assert "trivium.alias" not in span.attributes


async def test_a_failed_answer_is_a_failed_span(gateway: Bench, receiver: Receiver) -> None:
    gateway.engine.crash = True
    await gateway.chat()
    [span] = exported(receiver)
    assert span.failed and span.attributes["error.type"] == "500"


async def test_nothing_that_was_said_is_exported_nor_who_asked(gateway: Bench, receiver: Receiver) -> None:
    gateway.engine.words = [SAID]
    tool = {"type": "function", "function": {"name": SAID, "parameters": {"type": "object", "properties": {}}}}
    for more in ({}, {"stream": True}, {"tools": [tool], "metadata": {"x": SAID}, "user": SAID, "stop": [SAID]}):
        await gateway.chat(text=SAID, headers={"x-session-id": SAID}, **more)
    gateway.engine.error = (400, {"error": {"message": SAID, "code": 400}})
    await gateway.chat(text=SAID)
    assert len(exported(receiver)) == 4
    assert SAID.encode() not in receiver.received and b"owner" not in receiver.received


@pytest.mark.parametrize("given", ["", "00-zz-yy-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 500])
async def test_a_malformed_traceparent_begins_a_trace(gateway: Bench, receiver: Receiver, given: str) -> None:
    await gateway.chat(headers={"traceparent": given.encode()})
    [span] = exported(receiver)
    assert span.parent == "" and span.trace != TRACE


async def test_what_a_caller_sends_cannot_cost_others_their_spans(gateway: Bench, receiver: Receiver) -> None:
    gateway.engine.error = (400, {"error": {"message": "no such seed", "code": 400}})
    await gateway.chat(seed=10**30, temperature=1e308, n=1)
    await gateway.chat(text="hello")
    assert len(exported(receiver)) == 2


async def test_no_receiver_costs_no_answer(
    make: Callable[..., Bench], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    feed = Feed(telemetry._open_sinks)
    feed.open()
    monkeypatch.setattr(telemetry, "_feed", feed)
    gateway: Any = make()
    assert (await gateway.chat()).status_code == 200
    telemetry.flush()
    assert receiver.spans == []
