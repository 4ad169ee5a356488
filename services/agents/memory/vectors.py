"""A memory that lasts: documents as passages, found by meaning or by words, each principal's by itself.

The store behind it is LanceDB: an embedded library whose tables are versioned files, committed by optimistic
concurrency. Replicas on several machines write to one shared folder or bucket without a server, where SQLite's locks
would not hold; a table has vectors, BM25 over words, and an atomic replacement of a document. By a `postgresql://` URI
it is pgvector instead (`pgvectors.py`).

A principal's passages are a table of its own, whose name is a hash: no filter stands between principals that a name
could slip through, and those of another embedding model are in yet another, because their vectors say nothing here.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from services.agents.memory.embeddings import Embed, Vectors
from services.agents.memory.passages import Passage
from services.agents.memory.settings import MemorySettings
from services.agents.memory.splitting import split

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import AsyncConnection
    from lancedb.table import AsyncTable

logger = logging.getLogger(__name__)

UNINDEXED = 2_000
"""Passages that are searched without the words' index before they are taken into it."""
TIDY = 64
"""Changes of a table after which its small files become large ones, and its past is let go of ..."""
KEEP = timedelta(hours=1)
"""... but for what a slow reader may still be at."""


class Store(Protocol):
    """Passages by principal. `vectors` is None throughout, or nowhere."""

    async def replace(self, principal: str, source: str, texts: Sequence[str], vectors: Vectors | None) -> None:
        """These are a source's passages from now on, none: it is forgotten. Others see all of the change or nothing."""
        ...

    async def nearest(self, principal: str, vector: Sequence[float], count: int) -> list[Passage]:
        """By cosine similarity, best first."""
        ...

    async def matching(self, principal: str, query: str, count: int) -> list[Passage]:
        """By the words of the query, best first; whatever characters it has, they are words or nothing."""
        ...

    async def count(self, principal: str, but: str | None = None) -> int:
        """Passages there are, those of one source aside."""
        ...


class Memories:
    """What agents remember and look up: a `Memory`."""

    def __init__(self, store: Store, settings: MemorySettings, embed: Embed | None = None) -> None:
        if bool(embed) != bool(settings.embeddings):
            raise ValueError("an embedder goes with memory.embeddings, and only with it")
        self._store, self._settings, self._embed = store, settings, embed

    async def remember(self, principal: str, source: str, text: str) -> int:
        """Store a document in place of what the source said before; how many passages it became.

        Raises `ValueError` for one that is too large, or for which there is no room.
        """
        settings = self._settings
        if not source.strip() or len(source) > 1_000:
            raise ValueError("a source has a name of at most 1,000 characters")
        if len(text.encode(errors="replace")) > settings.document_bytes:
            raise ValueError(f"{source} is larger than {settings.document_bytes} bytes; split it")
        passages = split(_clean(text), settings.passage_characters)
        if await self._store.count(principal, but=source) + len(passages) > settings.most_passages:
            raise ValueError(f"there is no room for {source}: {settings.most_passages} passages are kept; forget some")
        vectors = None
        if self._embed and settings.embeddings:
            vectors = await self._embed([settings.embeddings.passage_prefix + passage for passage in passages])
        await self._store.replace(principal, _clean(source), passages, vectors)
        return len(passages)

    async def forget(self, principal: str, source: str) -> None:
        await self._store.replace(principal, _clean(source), [], [] if self._embed else None)

    async def search(self, principal: str, query: str, count: int) -> list[Passage]:
        """The best at most `count` passages of the principal's own, best first."""
        count, query = min(count, self._settings.results), _clean(query)
        if count < 1 or not query.strip():
            return []
        if self._embed and self._settings.embeddings:
            [vector] = await self._embed([self._settings.embeddings.query_prefix + query])
            return await self._store.nearest(principal, vector, count)
        return await self._store.matching(principal, query, count)


def open_store(settings: MemorySettings, state: Path) -> Store:
    """The store that the settings name. Raises `ValueError` where its client is not installed."""
    uri = settings.uri or str(state / "memory")
    if uri.startswith(("postgresql://", "postgres://")):
        from services.agents.memory.pgvectors import PgVectors

        return PgVectors(uri, settings.model)
    return Lance(uri, settings.model)


class Lance:
    """LanceDB at a folder or bucket. `model`: whose vectors they are; empty for passages without."""

    def __init__(self, uri: str, model: str = "") -> None:
        self._uri, self._model = uri, model
        self._db: AsyncConnection | None = None

    async def replace(self, principal: str, source: str, texts: Sequence[str], vectors: Vectors | None) -> None:
        document = _hash(source)
        table = (
            await self._table(principal, len(vectors[0]) if vectors else 0) if texts else await self._known(principal)
        )
        if table is None:
            return
        schema = await table.schema()
        if vectors and schema.field("vector").type.list_size != len(vectors[0]):
            raise ValueError(
                f"{self._model} gave vectors of {len(vectors[0])} numbers where it gave "
                f"{schema.field('vector').type.list_size} before; give another model another name"
            )
        merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        # In the same commit: what the document had beyond these passages. A digest, so nothing to be escaped.
        merge = merge.when_not_matched_by_source_delete(f"document = '{document}'")
        await merge.execute(_rows(schema, document, source, texts, vectors))
        try:
            await _tidy(table)
        except RuntimeError as error:  # another writer's commit came first
            logger.info("a table was left as it is for now: %s", error)

    async def nearest(self, principal: str, vector: Sequence[float], count: int) -> list[Passage]:
        table = await self._known(principal)
        if table is None:
            return []
        query = table.vector_search(list(vector)).distance_type("cosine").select(["text", "source", "_distance"])
        return [_passage(row, 1 - row["_distance"]) for row in await query.limit(count).to_list()]

    async def matching(self, principal: str, query: str, count: int) -> list[Passage]:
        table = await self._known(principal)
        if table is None:
            return []
        from lancedb.query import MatchQuery

        # A match query takes words; a plain string would be a language.
        words = MatchQuery(query, "text")  # type: ignore[call-arg]
        found = table.query().nearest_to_text(words).select(["text", "source", "_score"])
        return [_passage(row, row["_score"]) for row in await found.limit(count).to_list()]

    async def count(self, principal: str, but: str | None = None) -> int:
        table = await self._known(principal)
        if table is None:
            return 0
        return await table.count_rows(None if but is None else f"document != '{_hash(but)}'")

    def _name(self, principal: str) -> str:
        return _hash(json.dumps([principal, self._model]))

    async def _connect(self) -> AsyncConnection:
        if self._db is None:
            # The import takes a second or more, in which whoever else this process serves would wait.
            lancedb = await asyncio.to_thread(importlib.import_module, "lancedb")
            # Replicas see each other's commits at once.
            self._db = await lancedb.connect_async(self._uri, read_consistency_interval=timedelta(0))
        return self._db

    async def _known(self, principal: str) -> AsyncTable | None:
        """The principal's table, if there is one: who only asks leaves nothing behind."""
        db = await self._connect()
        try:
            return await db.open_table(self._name(principal))
        except ValueError as error:
            if "not found" not in str(error):
                raise
            return None

    async def _table(self, principal: str, size: int) -> AsyncTable:
        """The principal's table, made if there is none. `size`: numbers of a vector, 0 for none."""
        table = await self._known(principal)
        if table is not None and await table.list_indices():
            return table
        import pyarrow as pa
        from lancedb.index import FTS

        columns = [(name, pa.string()) for name in ("id", "document", "source", "text")]
        vector = [("vector", pa.list_(pa.float32(), size))] if size else []
        # Two who make one table at once are no conflict to lance: the later one's empty table replaces the other's.
        async with _alone(self._uri):
            table, db = await self._known(principal), await self._connect()
            if table is None:
                table = await db.create_table(self._name(principal), schema=pa.schema([*columns, *vector]))
            if not await table.list_indices():
                # From the start: without an index words are compared letter by letter, capitals and all. No language's
                # stems and stop words, because texts may be in any.
                words = FTS(base_tokenizer="icu", stem=False, remove_stop_words=False, ascii_folding=True)
                await table.create_index("text", config=words)
        return table


@asynccontextmanager
async def _alone(uri: str) -> AsyncIterator[None]:
    """The right to make tables, among all processes that share a folder. Buckets have no locks: there two replicas
    that make a principal's first passages within the same milliseconds may lose the earlier ones."""
    if "://" in uri:
        yield
        return
    Path(uri).mkdir(parents=True, exist_ok=True)
    with (Path(uri) / ".lock").open("a") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield


async def _tidy(table: AsyncTable) -> None:
    """Now and then, what came lately goes into the index, small files become large ones, and the past goes."""
    stats = [await table.index_stats(index.name) for index in await table.list_indices()]
    late = any(each and each.num_unindexed_rows >= UNINDEXED for each in stats)
    if late or await table.version() % TIDY == 0:
        await table.optimize(cleanup_older_than=KEEP)


def _rows(schema: pa.Schema, document: str, source: str, texts: Sequence[str], vectors: Vectors | None) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "id": [f"{document}-{place}" for place in range(len(texts))],
        "document": [document] * len(texts),
        "source": [source] * len(texts),
        "text": list(texts),
    }
    if "vector" in schema.names:
        columns["vector"] = vectors or []
    return pa.table(columns, schema=schema)


def _passage(row: dict[str, Any], score: float) -> Passage:
    return Passage(row["text"], row["source"], float(score))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _clean(text: str) -> str:
    """Without what no store takes: NUL, and halves of surrogate pairs."""
    return text.replace("\0", " ").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
