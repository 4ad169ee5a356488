"""Texts as vectors, by a model behind OpenAI's `POST /v1/embeddings`."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from services.agents.memory.settings import EmbeddingSettings

if TYPE_CHECKING:
    import httpx

Vectors = list[list[float]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
"""One vector for each text, all of one length. Raises `ValueError` with one sentence."""


def embedder(settings: EmbeddingSettings, key: str | None, transport: httpx.AsyncBaseTransport | None = None) -> Embed:
    """Asks the model. `key`: the cluster's own, where the settings name no variable."""
    import httpx

    if settings.key_variable:
        key = os.environ.get(settings.key_variable)
        if not key:
            raise ValueError(f"memory.embeddings: the environment variable {settings.key_variable} is not set; set it")
    http = httpx.AsyncClient(
        base_url=settings.base_url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=settings.timeout_s,
        transport=transport,
        trust_env=False,
    )

    async def embed(texts: Sequence[str]) -> Vectors:
        made: Vectors = []
        for start in range(0, len(texts), settings.batch):
            batch = list(texts[start : start + settings.batch])
            body = {"model": settings.model, "input": batch, "encoding_format": "float"}
            try:
                response = await http.post("embeddings", json=body)
                response.raise_for_status()
                data = sorted(response.json()["data"], key=lambda each: each["index"])
                made += [[float(number) for number in each["embedding"]] for each in data]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{settings.model} gave no embeddings: {_reason(error)}") from None
        if len(made) != len(texts) or len({len(vector) for vector in made}) > 1:
            raise ValueError(f"{settings.model} gave {len(made)} vectors for {len(texts)} texts, or of several sizes")
        return made

    return embed


def _reason(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    return type(error).__name__
