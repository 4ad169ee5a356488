"""Who gets in, and where to."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError
from starlette.responses import PlainTextResponse

from cluster import ids
from cluster.auth import Keys, mint_key
from services.gateway.body import parse
from services.gateway.chain import chain, prove_closed
from services.gateway.edge import Edge
from services.gateway.errors import Refusal
from tests.services.gateway.conftest import Bench, client_of
from tests.services.gateway.engine import FakeEngine

CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic abc", "Bearer "])
async def test_no_valid_key_gets_401_in_openai_words(gateway: Bench, authorization: str) -> None:
    answer = await gateway.client.post("/v1/chat/completions", json=CHAT, headers={"authorization": authorization})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert gateway.engine.asked == []


async def test_the_openai_client_understands_the_refusal(gateway: Bench) -> None:
    client = AsyncOpenAI(base_url="http://gateway/v1", api_key="wrong", http_client=gateway.client, max_retries=0)
    with pytest.raises(AuthenticationError, match="no valid API key"):
        await client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "path",
    ["/tokenize", "/docs", "/openapi.json", "/metrics", "/load", "/v1/load_lora_adapter", "/v1/embeddings", "/",
     "/v1/chat/completions/", "/v1/chat/completions/batch", "/v1//models", "/inference/v1/generate",
     "/v1/responses/resp_1"],
)  # fmt: skip
async def test_every_other_path_is_404(gateway: Bench, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await gateway.client.request(method, path, json={} if method == "POST" else None)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "unknown_url"


async def test_a_wrong_method_is_405(gateway: Bench) -> None:
    assert (await gateway.client.get("/v1/chat/completions")).status_code == 405
    assert (await gateway.client.post("/v1/models", json={})).status_code == 405


async def test_a_key_can_only_do_what_its_scopes_say(gateway: Bench) -> None:
    rater = client_of(gateway.app, Keys(gateway.state).create("rater", ("feedback",)))
    assert (await rater.post("/v1/chat/completions", json=CHAT)).status_code == 403
    user = client_of(gateway.app, Keys(gateway.state).create("user", ("infer",)))
    assert (await user.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert (await user.post("/v1/feedback", json={})).status_code == 403
    evaluation = await user.post("/v1/chat/completions", json=CHAT, headers={"x-trivium-purpose": "evaluation"})
    assert evaluation.status_code == 403


async def test_healthz_needs_no_key_and_says_nothing(gateway: Bench) -> None:
    answer = await gateway.client.get("/healthz", headers={"authorization": ""})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_an_answer_carries_one_minted_id_and_its_version(gateway: Bench) -> None:
    given = {"x-request-id": "mine", "x-trivium-forwarded": "yes"}
    answer = await gateway.chat(headers=given)
    (request_id,) = answer.headers.get_list("x-request-id")
    assert ids.minted(mint_key(gateway.state), request_id)
    assert answer.headers["x-trivium-version"] == "assistant@0"
    assert gateway.engine.headers[0]["x-request-id"] == request_id


@pytest.mark.parametrize("status", [404, 500, 503, None])
async def test_what_serve_says_by_itself_becomes_503_in_openai_words(status: int | None) -> None:
    async def away(scope: Any, receive: Any, send: Any) -> None:
        if status:
            await PlainTextResponse("Path '/v1/x' not found. Ping http://.../-/routes", status)(scope, receive, send)

    answer = await client_of(Edge(away, b"k"), "key").post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "unavailable" and "Ping" not in answer.text
    assert answer.headers["x-request-id"].startswith("req-")


async def test_a_replica_that_fails_under_serve_is_503_too_and_the_fault_is_not_hidden() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the actor died")

    transport = httpx.ASGITransport(Edge(fails, b"k"), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).json()["error"]["code"] == "unavailable"
    with pytest.raises(RuntimeError, match="the actor died"):
        await client_of(Edge(fails, b"k"), "key").post("/v1/chat/completions", json=CHAT)


async def test_other_applications_say_what_they_like() -> None:
    answer = await client_of(Edge(PlainTextResponse("no such page", 404), b"k"), "key").get("/agents/x")
    assert (answer.status_code, answer.text) == (404, "no such page")


async def test_headers_that_speak_to_serve_or_the_engine_are_dropped(gateway: Bench) -> None:
    seen: dict[str, Any] = {}

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.update(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    names = [
        "X-Request-Disconnect-Disabled",
        "x-request-timeout-seconds",
        "serve_multiplexed_model_id",
        "x-data-parallel-rank",
    ]
    await client_of(Edge(inner, b"k"), "key").get("/", headers={name: "1" for name in names})
    assert not {name.lower().encode() for name in names} & seen.keys()
    assert b"authorization" in seen
    await gateway.chat(headers={"cookie": "a=b", "endpoint-load-metrics-format": "json"})
    assert set(gateway.engine.headers[0]) == {"content-type", "content-length", "x-request-id"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b'{"temperature": NaN}', 400, "invalid_json"),
        (b"[" * 200_000, 400, "invalid_json"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, 400, "invalid_json"),
        (b'{"model": "\\ud800"}', 400, "invalid_json"),
        (b'{"model": "\xed\xa0\x80"}', 400, "invalid_json"),
        ('{"model": "assistant"}'.encode("utf-16"), 400, "invalid_json"),
        (b'{"temperature": 1e999}', 400, "invalid_json"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
        (b'{"model": "assistant"} {}', 400, "invalid_json"),
        (b'{"messages": []}', 400, "invalid_value"),
        (b'{"model": "assistant", "messages": "hi"}', 400, "invalid_value"),
        (b'{"model": 7, "messages": [{}]}', 400, "invalid_value"),
        (b'{"model": "nobody", "messages": [{"role": "user"}]}', 404, "model_not_found"),
        (b'{"model": "' + b"x" * 1_000_000 + b'"}', 413, "request_too_large"),
    ],
)
async def test_bad_bodies_get_clear_errors_and_harm_nothing(make: Any, content: bytes, status: int, code: str) -> None:
    gateway = make(most_bytes=900_000)
    answer = await gateway.client.post("/v1/chat/completions", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert gateway.engine.asked == []
    assert (await gateway.chat()).status_code == 200


async def test_past_the_bound_a_request_gets_503_at_once(make: Any) -> None:
    gateway = make(most_ongoing=1)
    gateway.engine.pause = asyncio.Event()
    first = asyncio.create_task(gateway.chat())
    await gateway.engine.reached_pause.wait()
    refused = await gateway.chat()
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"
    assert (await gateway.client.get("/v1/models")).status_code == 200, "what costs the engine nothing goes on"
    gateway.engine.pause.set()
    assert (await first).status_code == 200
    assert (await gateway.chat()).status_code == 200


async def test_a_body_without_a_length_is_counted_as_it_comes(make: Any) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 1000

    answer = await make(most_bytes=10_000).client.post("/v1/chat/completions", content=endless())
    assert answer.status_code == 413


async def test_a_fault_of_ours_is_a_500_that_tells_nothing(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.parts.desired, "rollout", None)
    answer = await gateway.chat()
    assert answer.status_code == 500
    assert "NoneType" not in answer.text and answer.json()["error"]["type"] == "server_error"


async def test_without_the_edge_nothing_is_served(gateway: Bench) -> None:
    bare = chain(gateway.engine.app, gateway.parts)
    answer = await client_of(bare, gateway.key).post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 503
    assert "trivium up" in answer.json()["error"]["message"]
    assert gateway.engine.asked == []


async def test_the_proof_holds_for_the_chain_and_fails_for_anything_else(gateway: Bench) -> None:
    await prove_closed(chain(gateway.engine.app, gateway.parts))
    with pytest.raises(RuntimeError, match="refusing to serve"):
        await prove_closed(FakeEngine().app)


async def test_web_sockets_are_closed_and_lifespan_reaches_the_engine(gateway: Bench) -> None:
    seen: list[str] = []

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app = chain(engine, gateway.parts)
    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket", "path": "/v1/realtime"}, receive, send)
    assert seen == ["lifespan"] and sent == [{"type": "websocket.close", "code": 1008}]


async def test_below_a_prefix_the_same_paths_answer(gateway: Bench) -> None:
    mounted = httpx.ASGITransport(gateway.app, root_path="/bases/seed")
    client = httpx.AsyncClient(transport=mounted, base_url="http://gateway", headers=gateway.client.headers)
    assert (await client.post("/bases/seed/v1/chat/completions", content=json.dumps(CHAT))).status_code == 200


@pytest.mark.parametrize(
    ("raw", "deep"),
    [
        (b'{"a": ' * 64 + b"1" + b"}" * 64, False),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, True),
        (b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}", False),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", True),
        (b'{"a": "' + b"[" * 100 + b'", "b": "\\\\", "c": "\\\\\\"' + b"{" * 100 + b'"}', False),
        (b'{"a": [' + b"{}," * 1000 + b"{}]}", False),
    ],
)
def test_a_body_may_be_nested_so_deep_and_what_strings_say_does_not_count(raw: bytes, deep: bool) -> None:
    if deep:
        with pytest.raises(Refusal, match="nested more than 64 deep"):
            parse(raw)
    else:
        assert parse(raw) == json.loads(raw)
