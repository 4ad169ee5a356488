"""A dataset's rows on disk: their columns, the files that hold them, and the digest over them.

A column that only some rows have goes into `schema`, and into `prepare.TEXTS` if it is made from the log.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from pipelines.artifacts import JSON_COLUMNS, Row
from pipelines.prepare import TEXTS

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1_000
"""Rows that are Python objects at a time."""

_encode = msgspec.json.Encoder().encode


def schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([*((name, pa.string()) for name in (*TEXTS, "origin")), ("record_ids", pa.list_(pa.string()))])


def columns(row: Row) -> dict[str, Any]:
    """A row by the columns of `schema`."""
    given = {name: getattr(row, name) for name in JSON_COLUMNS}
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in given.items() if value is not None}
    return {**vars(row), **texts}


def write(path: Path, rows: list[dict[str, Any]]) -> list[bytes]:
    """A file of rows in a folder that may not be there yet; their digests."""
    import pyarrow as pa

    path.parent.mkdir(exist_ok=True)
    return [save(path, pa.Table.from_pylist(rows, schema()))]


def save(path: Path, rows: pa.Table) -> bytes:
    """A file of rows; their digests, 32 bytes each, one behind the other."""
    import pyarrow.parquet as parquet

    parquet.write_table(rows, path, use_dictionary=["tools", "options", "origin", "slice"])
    return digests(rows)


def digests(rows: pa.Table) -> bytes:
    """SHA-256 of each row, one behind the other."""
    light = rows.set_column(rows.column_names.index("tools"), "tools", _hashed(rows["tools"]))
    made = (
        hashlib.sha256(_encode(row)).digest()
        for batch in light.to_batches(max_chunksize=BATCH_ROWS)
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    return b"".join(made)


def over(digests: list[bytes]) -> str:
    """SHA-256 over all rows by their digests; the same for any order of rows and any number of files."""
    return hashlib.sha256(np.sort(np.frombuffer(b"".join(digests), dtype="S32")).tobytes()).hexdigest()


def _hashed(texts: Any) -> pa.Array:
    """Digests of texts that are the same in most rows: each is hashed once."""
    import pyarrow as pa

    coded = texts.combine_chunks().dictionary_encode()
    hashed = [hashlib.sha256(text.encode()).hexdigest() for text in coded.dictionary.to_pylist()]
    return pa.array(hashed, pa.string()).take(coded.indices)
