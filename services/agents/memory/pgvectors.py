"""Passages in PostgreSQL with pgvector (https://github.com/pgvector/pgvector), by psycopg: the extra `pgvector`.

Searches are exact: a principal's passages are found by an index and compared one by one, as many as `most_passages`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from services.agents.memory.embeddings import Vectors
from services.agents.memory.passages import Passage

TABLE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS trivium_passages (
    principal text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    place int NOT NULL,
    text text NOT NULL,
    vector vector,
    PRIMARY KEY (principal, model, source, place)
);
"""
LOCK = 7_261_482_501
"""Of those who make the table: two at once would meet in the catalogue."""
OWN = "WHERE principal = %(principal)s AND model = %(model)s"
NEAREST = f"""
SELECT text, source, 1 - (vector <=> %(vector)s::vector) AS score FROM trivium_passages {OWN}
ORDER BY vector <=> %(vector)s::vector, source, place LIMIT %(count)s
"""
# Any of the words is enough, as with BM25. They are what PostgreSQL's own parser finds in the query: no operators.
MATCHING = f"""
WITH wanted AS (
    SELECT string_agg(quote_literal(word), ' | ')::tsquery AS words
    FROM unnest(tsvector_to_array(to_tsvector('simple', %(query)s))) AS word
)
SELECT text, source, ts_rank(to_tsvector('simple', text), words, 1) AS score FROM trivium_passages, wanted
{OWN} AND to_tsvector('simple', text) @@ words ORDER BY score DESC, source, place LIMIT %(count)s
"""


class PgVectors:
    """A `Store` at `postgresql://...`. `model`: whose vectors they are; empty for passages without."""

    def __init__(self, uri: str, model: str = "") -> None:
        try:
            import psycopg
        except ImportError:
            raise ValueError("memory.uri names a PostgreSQL server; install trivium[pgvector] for it") from None
        self._psycopg, self._uri, self._model = psycopg, uri, model
        self._made, self._making = False, asyncio.Lock()

    async def replace(self, principal: str, source: str, texts: Sequence[str], vectors: Vectors | None) -> None:
        own = {"principal": principal, "model": self._model, "source": source}
        given = [_literal(vector) for vector in vectors] if vectors else [None] * len(texts)
        rows = [
            {**own, "place": place, "text": text, "vector": vector}
            for place, (text, vector) in enumerate(zip(texts, given, strict=True))
        ]
        async with await self._connect() as connection, connection.cursor() as cursor:
            # Two who replace one source at once take turns.
            key = "SELECT pg_advisory_xact_lock(hashtextextended(%(principal)s || E'\\x01' || %(source)s, 1))"
            await cursor.execute(key, own)
            await cursor.execute(f"DELETE FROM trivium_passages {OWN} AND source = %(source)s", own)
            if rows:
                await cursor.executemany(
                    "INSERT INTO trivium_passages (principal, model, source, place, text, vector) VALUES "
                    "(%(principal)s, %(model)s, %(source)s, %(place)s, %(text)s, %(vector)s::vector)",
                    rows,
                )

    async def nearest(self, principal: str, vector: Sequence[float], count: int) -> list[Passage]:
        return await self._passages(NEAREST, principal, vector=_literal(vector), count=count)

    async def matching(self, principal: str, query: str, count: int) -> list[Passage]:
        return await self._passages(MATCHING, principal, query=query, count=count)

    async def count(self, principal: str, but: str | None = None) -> int:
        own = {"principal": principal, "model": self._model, "but": but or ""}
        asked = f"SELECT count(*) FROM trivium_passages {OWN} AND source <> %(but)s"
        async with await self._connect() as connection:
            row = await (await connection.execute(asked, own)).fetchone()
            return row[0]

    async def _passages(self, sql: str, principal: str, **given: Any) -> list[Passage]:
        async with await self._connect() as connection:
            rows = await connection.execute(sql, {"principal": principal, "model": self._model, **given})
            return [Passage(text, source, float(score)) for text, source, score in await rows.fetchall()]

    async def _connect(self) -> AbstractAsyncContextManager[Any]:
        """A connection, whose block is a transaction. Raises `ValueError` where there is no server."""
        try:
            connection = await self._psycopg.AsyncConnection.connect(self._uri, connect_timeout=10)
        except self._psycopg.OperationalError as error:
            raise ValueError(f"the memory's PostgreSQL server does not answer: {str(error).splitlines()[0]}") from None
        async with self._making:
            if not self._made:
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                for statement in filter(str.strip, TABLE.split(";")):
                    await connection.execute(statement)
                await connection.commit()
                self._made = True
        return connection


def _literal(vector: Sequence[float]) -> str:
    """As pgvector reads it."""
    return "[" + ",".join(map(repr, map(float, vector))) + "]"
