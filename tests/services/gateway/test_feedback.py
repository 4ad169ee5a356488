"""Feedback is taken strictly, and acknowledged only once it is on disk."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster import ids
from tests.services.gateway.conftest import Bench, Client

CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


async def give(gateway: Bench, **body: Any) -> Any:
    return await gateway.client.post("/v1/feedback", json=body)


async def test_feedback_on_an_answer_is_kept(gateway: Bench) -> None:
    request_id = (await gateway.chat()).headers["x-request-id"]
    answer = await give(gateway, request_id=request_id, score=0.5, correction="Bye", source="critic", comment="rude")
    assert answer.status_code == 200
    (kept,) = await gateway.feedback()
    assert (kept.request_id, kept.score, kept.source, kept.comment) == (request_id, 0.5, "critic", "rude")
    assert kept.correction == {"role": "assistant", "content": "Bye"} and kept.principal == "owner"


@pytest.mark.parametrize("prefix", ["chatcmpl-", "cmpl-", "resp_", ""])
async def test_the_id_inside_of_an_answer_will_do(gateway: Bench, prefix: str) -> None:
    request_id = (await gateway.chat()).headers["x-request-id"]
    assert (await give(gateway, request_id=prefix + request_id, score=1)).status_code == 200
    assert (await gateway.feedback())[0].request_id == request_id


async def test_a_correction_may_call_tools(gateway: Bench) -> None:
    request_id = (await gateway.chat()).headers["x-request-id"]
    answer = await give(gateway, request_id=request_id, score=0, correction={"content": None, "tool_calls": [CALL]})
    assert answer.status_code == 200
    (kept,) = await gateway.feedback()
    assert kept.correction == {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"score": 1.5}, "score"),
        ({"score": -0.1}, "score"),
        ({"score": "1"}, "score"),
        ({"score": True}, "score"),
        ({"score": None}, "score"),
        ({"score": 1, "correction": 5}, "correction"),
        ({"score": 1, "correction": {"role": "user", "content": "x"}}, "correction"),
        ({"score": 1, "correction": {"content": None}}, "correction"),
        ({"score": 1, "correction": {"tool_calls": [{"function": {"name": "a", "arguments": {}}}]}}, "correction"),
        ({"score": 1, "source": ""}, "source"),
        ({"score": 1, "source": "x" * 65}, "source"),
        ({"score": 1, "comment": 3}, "comment"),
        ({"score": 1, "sorce": "typo"}, "sorce"),
    ],
)
async def test_wrong_feedback_is_refused_by_name(gateway: Bench, more: dict[str, Any], param: str) -> None:
    request_id = ids.mint(gateway.parts.mint_key)
    answer = await give(gateway, request_id=request_id, **more)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert await gateway.feedback() == []


@pytest.mark.parametrize("request_id", ["nonsense", "req-" + "0" * 40, "", "req-é", "chatcmpl-", "req-" + "0" * 39])
async def test_feedback_for_nothing_is_404(gateway: Bench, request_id: str) -> None:
    answer = await give(gateway, request_id=request_id, score=1)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "request_not_found"


async def test_feedback_is_acknowledged_only_once_on_disk(gateway: Bench) -> None:
    gateway.disk.free.clear()
    body = {"request_id": ids.mint(gateway.parts.mint_key), "score": 1}
    client = Client(gateway.app, gateway.key, "/v1/feedback", body)
    await gateway.disk.waiting.wait()
    await asyncio.sleep(0)
    assert client.status is None
    gateway.disk.free.set()
    await client.task
    assert client.status == 200


async def test_a_full_disk_is_503(gateway: Bench) -> None:
    gateway.disk.full = True
    answer = await give(gateway, request_id=ids.mint(gateway.parts.mint_key), score=1)
    assert answer.status_code == 503 and answer.headers["retry-after"]
