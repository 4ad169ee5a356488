"""Vectors come from any model behind OpenAI's API, in the order of the texts, or a sentence says why not."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from services.agents.memory.embeddings import embedder
from services.agents.memory.settings import EmbeddingSettings


def model(answer: Any = None, status: int = 200) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that gives each text a vector of its length, the last text first."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        texts = json.loads(request.content)["input"]
        data = [{"index": place, "embedding": [float(len(text)), 1]} for place, text in enumerate(texts)]
        return httpx.Response(status, json=answer if answer is not None else {"data": data[::-1]})

    return httpx.MockTransport(handle), asked


def settings(**given: Any) -> EmbeddingSettings:
    return EmbeddingSettings(**{"base_url": "http://model:1/v1", "model": "small", "batch": 2, **given})


async def test_texts_are_asked_in_batches_and_vectors_keep_their_order() -> None:
    transport, asked = model()
    vectors = await embedder(settings(), "sk-trivium-x", transport)(["a", "bb", "ccc"])
    assert vectors == [[1, 1], [2, 1], [3, 1]]
    assert [json.loads(request.content)["input"] for request in asked] == [["a", "bb"], ["ccc"]]
    assert str(asked[0].url) == "http://model:1/v1/embeddings"
    assert asked[0].headers["authorization"] == "Bearer sk-trivium-x"


async def test_a_key_of_ones_own_is_not_the_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "theirs")
    transport, asked = model()
    await embedder(settings(key_variable="OTHER_KEY"), "sk-trivium-x", transport)(["a"])
    assert asked[0].headers["authorization"] == "Bearer theirs"
    monkeypatch.delenv("OTHER_KEY")
    with pytest.raises(ValueError, match="OTHER_KEY is not set"):
        embedder(settings(key_variable="OTHER_KEY"), "sk-trivium-x", transport)


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        ({"error": {"message": "sk-secret"}}, 500, "small gave no embeddings: it answered 500$"),
        ({"data": [{"index": 0}]}, 200, "small gave no embeddings: KeyError$"),
        ({"data": []}, 200, "small gave 0 vectors for 2 texts"),
        ({"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}]}, 200, "of several sizes"),
    ],
)
async def test_a_model_that_gives_none_is_named(answer: Any, status: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await embedder(settings(), None, model(answer, status)[0])(["a", "b"])
