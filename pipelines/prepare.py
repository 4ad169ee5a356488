"""From the snapshot's rows to prepared ones: which answer to learn, scrubbed, hashed for the choice between rows.

Plain functions on rows and batches. Texts are JSON by msgspec, which writes it ten times as fast as the standard
library; the tools that an application offers are read once for all its requests.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from cluster.records import Message
from pipelines.duplicates import HASHES, Shingles, bands, signatures
from pipelines.recipe import CurationSettings
from pipelines.scrub import Scrubber
from pipelines.targets import Logged, Unusable, choose, slice_of, spoken, target

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = ("tool_choice", "response_format", "parallel_tool_calls", "chat_template_kwargs")
"""What of the request's parameters decides prompt and well-formed answers; evaluation sends them again."""
TEXTS = ("row_id", "messages", "tools", "session", "slice", "options", "rejected")
"""Columns that a dataset has of its rows; its others are made when they are chosen (`rows.schema`)."""
LIGHT = ("row_id", "time", "session", "slice", "prompt", "target", "bands", "dropped", "scrubbed")
"""Columns that come to the driver: some 350 bytes a row."""

_read = msgspec.json.Decoder(Logged).decode
_write = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


def prepare_batch(batch: pa.RecordBatch, settings: CurationSettings, ignored: Shingles) -> pa.Table:
    """Records with their feedback as rows of `schema`."""
    import pyarrow as pa

    bodies, feedback = batch["body"].to_pylist(), batch["feedback"].to_pylist()
    rows = [prepare(*given, settings) for given in zip(bodies, feedback, strict=True)]
    usable = [row for row in rows if "dropped" not in row]
    minima = signatures([row["spoken"] for row in usable], ignored)
    for row, one, keys in zip(usable, minima, bands(minima, settings.near_duplicate), strict=True):
        row["signature"], row["bands"] = one.tobytes(), keys.tobytes()
    return pa.Table.from_pylist(rows, schema(settings))


def prepare(body: str, feedback: str, settings: CurationSettings) -> dict[str, Any]:
    """One record with its feedback as a row, or the reason why it is none."""
    record = _read(body)
    tools, tools_text, offered = _tools(bytes(record.tools))
    try:
        answer = choose(record, msgspec.json.decode(feedback), settings.min_score)
        scrubber = Scrubber(settings.scrub)
        messages = [scrubber.message(message) for message in record.messages]
        answer = target(scrubber.message(answer), tools)
    except Unusable as reason:
        return {"row_id": record.request_id, "dropped": str(reason)}
    rejected = corrected(record, answer, tools, scrubber)
    said = [[message.get("role"), _plain(message.get("content")), message.get("tool_calls")] for message in messages]
    return {
        "row_id": record.request_id,
        "time": record.time,
        "session": record.session,
        "slice": slice_of(answer),
        "messages": _write([*messages, answer]).decode(),
        "tools": tools_text,
        "options": _write({name: record.sampling[name] for name in OPTIONS if name in record.sampling}).decode(),
        "rejected": rejected and _write(rejected).decode(),
        "prompt": _identity([said, offered]),
        "target": _identity([answer, offered]),
        "spoken": spoken(messages),
        "scrubbed": _write(scrubber.counts).decode(),
    }


def corrected(record: Logged, answer: Message, tools: list[dict[str, Any]], scrubber: Scrubber) -> Message | None:
    """The answer that was given, in canonical form, if the target is another one: what not to say."""
    if record.answer is None or record.finish_reason == "length":
        return None
    try:
        given = target(scrubber.message(record.answer), tools)
    except Unusable:
        return None
    return given if given != answer else None


def schema(settings: CurationSettings) -> pa.Schema:
    """Columns of prepared rows."""
    import numpy as np
    import pyarrow as pa

    keys = bands(np.zeros((1, HASHES), dtype=np.uint32), settings.near_duplicate)
    return pa.schema(
        [
            *((name, pa.string()) for name in TEXTS),
            ("time", pa.float64()),
            ("prompt", pa.binary(16)),
            ("target", pa.binary(16)),
            ("signature", pa.binary(4 * HASHES)),
            ("bands", pa.binary(keys.nbytes)),
            ("scrubbed", pa.string()),
            ("dropped", pa.string()),
        ]
    )


@functools.lru_cache(maxsize=256)
def _tools(raw: bytes) -> tuple[list[dict[str, Any]], str, str]:
    """The tools, their text and their identity."""
    tools = msgspec.json.decode(raw)
    return tools, _write(tools).decode(), _identity(tools).hex()


def _identity(value: Any) -> bytes:
    """Digest of a JSON value, whatever the order of its keys: 16 bytes keep a billion rows apart."""
    return hashlib.blake2b(_canonical(value), digest_size=16).digest()


def _plain(content: Any) -> Any:
    return " ".join(content.split()) if isinstance(content, str) else content
