"""What agents may remember, and where."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from cluster.settings import Strict


class EmbeddingSettings(Strict):
    """A model that turns texts into vectors, behind OpenAI's `POST /v1/embeddings`: one that the cluster serves, or any
    other."""

    base_url: str
    """Up to `/v1`."""
    model: str
    key_variable: str | None = None
    """Environment variable that holds the key; settings never do. Left out: the cluster's own key."""
    query_prefix: str = ""
    """Before a query, where the model was trained so (E5: `query: `)."""
    passage_prefix: str = ""
    """Before a passage (E5: `passage: `)."""
    batch: int = Field(64, ge=1)
    """Texts in one request."""
    timeout_s: float = Field(60.0, gt=0)


class BoardSettings(Strict):
    """Bounds of the blackboards that the agents of a run share."""

    keys: int = Field(256, ge=1)
    """Of one board."""
    key_characters: int = Field(128, ge=1)
    value_bytes: int = Field(2**20, ge=1)
    """Of one value, as UTF-8."""
    board_bytes: int = Field(16 * 2**20, ge=1)
    """Of all values of one board."""
    inline_bytes: int = Field(16 * 2**10, ge=0)
    """Larger values lie in the object store, and the board holds a reference."""
    boards: int = Field(1_000, ge=1)
    """At once; the one that was not looked at for longest goes first."""
    keep_s: float = Field(86_400.0, gt=0)
    """How long a board stays that nobody looks at."""


class MemorySettings(Strict):
    """What agents may remember, and where."""

    uri: str | None = None
    """A folder or bucket for LanceDB, or `postgresql://...` for a server with pgvector, its password in `PGPASSWORD` or
    a password file. Left out: `memory` under state."""
    embeddings: EmbeddingSettings | None = None
    """Left out, passages are found by their words."""
    passage_characters: int = Field(1_200, ge=100)
    """Documents are split at paragraphs, then sentences, into passages of about this size at most."""
    document_bytes: int = Field(8 * 2**20, ge=1)
    """Of one document."""
    most_passages: int = Field(100_000, ge=1)
    """Of one principal."""
    results: int = Field(20, ge=1)
    """Passages that one search may ask for."""
    board: BoardSettings = BoardSettings()  # type: ignore[call-arg]

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        if uri and urlsplit(uri).password:
            raise ValueError("memory.uri holds a password; leave it out there and set PGPASSWORD or a password file")
        return uri

    @property
    def model(self) -> str:
        """What vectors are comparable by; empty where there are none."""
        return self.embeddings.model if self.embeddings else ""
