"""Aliases move, adapters load, other applications answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn

from cluster import decisions
from cluster.auth import mint_key
from services.gateway.desired import Desired
from services.gateway.forward import HttpForwarder
from tests.services.gateway.conftest import Bench, Client, events


async def test_an_alias_follows_promotion_and_rollback_without_a_restart(gateway: Bench) -> None:
    gateway.publish("assistant", 1)
    gateway.decide("create", "assistant@0")
    seen = []
    for action, version in [("stage", "assistant@1"), ("promote", "assistant@1"), ("rollback", "assistant@0")]:
        gateway.decide(action, version)
        seen.append((await gateway.chat()).headers["x-trivium-version"])
    assert seen == ["assistant@0", "assistant@1", "assistant@0"]
    assert [body["model"] for body in gateway.engine.asked] == ["seed", "assistant@1", "seed"]
    assert [(r.alias, r.version, r.arm) for r in await gateway.records()][1] == ("assistant", "assistant@1", "champion")


async def test_the_candidate_is_addressed_by_name_while_it_is_staged(gateway: Bench) -> None:
    gateway.publish("assistant", 1)
    gateway.decide("create", "assistant@0")
    assert (await gateway.chat("assistant@candidate")).status_code == 404
    gateway.decide("stage", "assistant@1")
    answer = await gateway.chat("assistant@candidate")
    assert answer.headers["x-trivium-version"] == "assistant@1"
    (record,) = await gateway.records()
    assert (record.alias, record.arm) == (None, "direct")


async def test_replicas_find_decisions_by_themselves(gateway: Bench) -> None:
    gateway.publish("assistant", 1)
    changed = asyncio.Event()

    async def note() -> None:
        changed.set()

    follower = asyncio.create_task(gateway.parts.desired.follow(note, every_s=0.01))
    before = gateway.parts.desired.rollout.sequence
    other = type(gateway.parts.desired)(gateway.state)  # decides without telling
    gateway.parts.desired.refresh, refresh = (lambda: False), gateway.parts.desired.refresh  # type: ignore[method-assign]
    gateway.decide("create", "assistant@0")
    gateway.parts.desired.refresh = refresh  # type: ignore[method-assign]
    assert gateway.parts.desired.rollout.sequence == before
    await asyncio.wait_for(changed.wait(), 5)
    assert gateway.parts.desired.rollout.sequence == 0
    follower.cancel()
    other.refresh()
    assert other.rollout.aliases == gateway.parts.desired.rollout.aliases


async def test_an_unreadable_decision_leaves_the_last_known_state_serving(gateway: Bench) -> None:
    gateway.decide("create", "assistant@0")
    decisions.path(gateway.state, 1).write_text("{torn")
    follower = asyncio.create_task(gateway.parts.desired.follow(asyncio.Event().wait, every_s=0.001))
    assert (await gateway.chat()).status_code == 200
    assert not follower.done()
    follower.cancel()


async def test_a_missing_version_is_loaded_once_for_everybody(gateway: Bench) -> None:
    gateway.publish("assistant", 4)
    gateway.adapters.gate = asyncio.Event()
    waiting = [asyncio.create_task(gateway.chat("assistant@4")) for _ in range(5)]
    async with asyncio.timeout(5):
        while not gateway.adapters.loads:
            await asyncio.sleep(0.001)
    gateway.adapters.gate.set()
    answers = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in answers} == {200}
    assert gateway.adapters.loads == ["assistant@4"]


async def test_a_version_that_cannot_be_loaded_says_why_and_the_rest_is_served(gateway: Bench) -> None:
    gateway.publish("assistant", 1)
    gateway.adapters.broken["assistant@1"] = "it has rank 64, and the engine takes at most 32"
    answer = await gateway.chat("assistant@1")
    assert answer.status_code == 503 and "rank 64" in answer.json()["error"]["message"]
    await gateway.parts.adapters.want(["assistant@1"])
    assert gateway.parts.adapters.errors == {"assistant@1": "it has rank 64, and the engine takes at most 32"}
    assert (await gateway.chat()).status_code == 200


async def test_what_nobody_wants_or_uses_makes_room(gateway: Bench) -> None:
    for number in range(1, 5):
        gateway.publish("assistant", number)
    await gateway.parts.adapters.want(["assistant@1"])
    await gateway.chat("assistant@2")
    gateway.engine.pause = asyncio.Event()
    busy = asyncio.create_task(gateway.chat("assistant@3"))
    await gateway.engine.reached_pause.wait()
    assert gateway.adapters.unloads == ["assistant@2"]
    other = asyncio.create_task(gateway.chat("assistant@4"))
    async with asyncio.timeout(5):
        while "assistant@4" not in gateway.parts.adapters.versions:
            await asyncio.sleep(0.001)
    assert "assistant@3" in gateway.parts.adapters.versions, "a version in use must stay"
    gateway.engine.pause.set()
    await asyncio.gather(busy, other)
    await gateway.parts.adapters.want(["assistant@1"])
    assert gateway.parts.adapters.versions == ["assistant@1", "assistant@4"]


@contextlib.asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """The app on a port of this machine, as HAProxy would see it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


class Prefixed:
    """Mounts an app below a prefix, as Serve does."""

    def __init__(self, app: Any, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith(self._prefix)
        await self._app({**scope, "root_path": self._prefix}, receive, send)


@pytest.mark.parametrize("stream", [False, True])
async def test_another_base_answers_behind_the_same_url(make: Callable[..., Bench], stream: bool) -> None:
    far = make("qwen", "/bases/qwen")
    far.engine.words = ["Ni", "hao"]
    async with listening(Prefixed(far.app, "/bases/qwen")) as address:
        near = make("seed", forward=HttpForwarder(address, mint_key(far.state)))
        answer = await near.chat("qwen", stream=stream, headers={"x-session-id": "s"})
    assert answer.status_code == 200
    assert answer.headers["x-trivium-version"] == "qwen@0"
    (request_id,) = answer.headers.get_list("x-request-id")
    if stream:
        assert events(answer.text)[-1] == "[DONE]"
    (record,) = await far.records()  # one log: the near gateway must not record it a second time
    assert (record.request_id, record.session, record.streamed) == (request_id, "s", stream)
    assert record.answer == {"role": "assistant", "content": "Nihao"}
    assert near.engine.asked == []


async def test_a_forwarded_stream_arrives_word_by_word(make: Callable[..., Bench]) -> None:
    far = make("qwen", "/bases/qwen")
    far.engine.pause = asyncio.Event()
    async with listening(Prefixed(far.app, "/bases/qwen")) as address:
        near = make("seed", forward=HttpForwarder(address, mint_key(far.state)))
        body = {"model": "qwen", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        client = Client(near.app, near.key, "/v1/chat/completions", body)
        async with asyncio.timeout(5):
            while b"Hello" not in client.received:
                await asyncio.sleep(0.001)
        assert not client.ended
        await client.hang_up()
        async with asyncio.timeout(5):
            while not (records := await far.records()):
                await asyncio.sleep(0.001)
    assert records[0].disconnected


async def test_two_gateways_that_disagree_do_not_play_ping_pong(make: Callable[..., Bench]) -> None:
    far = make("qwen", "/bases/qwen")
    async with listening(Prefixed(far.app, "/bases/qwen")) as address:
        near = make("seed", forward=HttpForwarder(address, mint_key(far.state)))
        far.parts.desired.publish("third", "/bases/third")
        far.parts.desired.refresh()
        near.parts.desired.refresh()
        near.parts.desired.routes["third"] = "/bases/qwen"
        answer = await near.chat("third")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "base_unavailable"


async def test_plain_text_of_serve_is_not_passed_for_an_answer(make: Callable[..., Bench]) -> None:
    async def restarting(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Path not found"})

    async with listening(restarting) as address:
        near = make("seed", forward=HttpForwarder(address, b"k"))
        near.parts.desired.publish("qwen", "/bases/qwen")
        near.parts.desired.refresh()
        answer = await near.chat("qwen")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "base_unavailable"


async def test_a_forward_that_finds_its_application_gone_is_told_apart_from_a_wrong_path(
    make: Callable[..., Bench],
) -> None:
    near = make("seed")
    async with listening(near.app) as address:  # as Serve does: what no application takes goes to the one at `/`
        near.parts.forward._address = address
        near.parts.desired.publish("qwen", "/bases/qwen")
        near.parts.desired.refresh()
        answer = await near.chat("qwen")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "base_unavailable"


async def test_polls_and_broadcasts_that_come_together_read_each_decision_once(gateway: Bench) -> None:
    for number in range(1, 4):
        gateway.publish("assistant", number)
    desired = Desired(gateway.state)
    for action, version in [("create", "assistant@0"), ("stage", "assistant@1"), ("promote", "assistant@1")]:
        gateway.decide(action, version)
    await asyncio.gather(*(asyncio.to_thread(desired.refresh) for _ in range(16)))
    assert desired.rollout.aliases["assistant"].history == ("assistant@0",)


async def test_an_application_that_is_away_gives_503_with_retry_after(make: Callable[..., Bench]) -> None:
    near = make("seed")  # forwards to a port where nobody listens
    near.parts.desired.publish("qwen", "/bases/qwen")
    near.parts.desired.refresh()
    answer = await near.chat("qwen")
    assert answer.status_code == 503 and answer.headers["retry-after"]
