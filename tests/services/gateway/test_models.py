"""The list of models is ours: bases, aliases, versions, and no paths."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI, NotFoundError

from tests.services.gateway.conftest import Bench


async def test_bases_aliases_and_versions_are_listed_and_retrieved(gateway: Bench) -> None:
    gateway.publish("assistant", 1)
    gateway.decide("create", "assistant@0")
    gateway.parts.desired.publish("Qwen/Qwen3-4B", "/bases/qwen")
    gateway.parts.desired.refresh()
    client = AsyncOpenAI(base_url="http://gateway/v1", api_key=gateway.key, http_client=gateway.client)
    listed = [model.id async for model in client.models.list()]
    assert listed == ["assistant", "seed", "Qwen/Qwen3-4B", "assistant@1"]
    for name in listed:
        assert (await client.models.retrieve(name)).id == name
    assert str(gateway.state) not in (await gateway.client.get("/v1/models")).text


async def test_an_unknown_model_is_404(gateway: Bench) -> None:
    client = AsyncOpenAI(base_url="http://gateway/v1", api_key=gateway.key, http_client=gateway.client)
    with pytest.raises(NotFoundError) as error:
        await client.models.retrieve("nobody")
    assert error.value.code == "model_not_found"
