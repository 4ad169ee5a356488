"""From the snapshot's rows to prepared ones: which answers to learn, scrubbed, hashed for the choice between rows.

Plain functions on rows and batches. Texts are JSON by msgspec, which writes it ten times as fast as the standard
library; the tools that an application offers are read once for all its requests.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from cluster.records import Message
from pipelines.artifacts import unweighed
from pipelines.duplicates import HASHES, Shingles, bands, signatures
from pipelines.recipe import CurationSettings
from pipelines.scrub import Scrubber
from pipelines.targets import Logged, Unusable, choose, given_options, slice_of, spoken, target
from pipelines.trajectories import Journey

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("row_id", "messages", "tools", "session", "slice", "options", "rejected")
"""Columns that a dataset has of its rows; its others are made when they are chosen (`rows.schema`)."""
LIGHT = (
    "row_id",
    "time",
    "slice",
    "prompt",
    "target",
    "bands",
    "dropped",
    "scrubbed",
    "key",
    "touches",
    "turns",
    "ids",
)
"""Columns that come to the driver: some 350 bytes a row."""

_read = msgspec.json.Decoder(Logged).decode
_read_run = msgspec.json.Decoder(Journey).decode
_write = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


def prepare_batch(batch: pa.RecordBatch, settings: CurationSettings, ignored: Shingles) -> pa.Table:
    """Records with their feedback, and runs (they have none of their own), as rows of `schema`."""
    import pyarrow as pa

    bodies, feedback = batch["body"].to_pylist(), batch["feedback"].to_pylist()
    rows = [
        prepare(body, given, settings) if given is not None else prepare_run(body, settings)
        for body, given in zip(bodies, feedback, strict=True)
    ]
    if "touches" in batch.schema.names:
        for row, touches in zip(rows, batch["touches"].to_pylist(), strict=True):
            row["touches"] = touches
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
        messages = [scrubber.message(unweighed(message)) for message in record.messages]
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
        "options": _write(given_options(record)).decode(),
        "rejected": rejected and _write(rejected).decode(),
        "prompt": _identity([said, offered]),
        "target": _identity([answer, offered]),
        "spoken": spoken(messages),
        "scrubbed": _write(scrubber.counts).decode(),
        "origin": "log",
        "key": record.session,
        "turns": 1,
    }


def prepare_run(body: str, settings: CurationSettings) -> dict[str, Any]:
    """One run, or one pair out of two, as a row, or the reason why it is none.

    Each of the model's turns is learnt, in canonical form, but those that led nowhere (`Turn.learn`) or that nobody
    could carry out: they are read, as the model will read its own errors. The row ends with the last that is learnt.
    """
    run = _read_run(body)
    if run.rejected is None and run.reward < settings.runs.min_reward:
        return {"row_id": run.request_id, "dropped": "low reward"}
    tools, tools_text, offered = _tools(bytes(run.tools))
    scrubber = Scrubber(settings.scrub)
    messages = [scrubber.message(unweighed(message)) for message in run.messages]
    rejected = run.rejected and scrubber.message(run.rejected)
    learnt = []
    for turn in run.turns:
        try:
            said = target(messages[turn.place], tools)
        except Unusable:
            continue
        if turn.learn:
            messages[turn.place] = {**_same_ids(said, messages[turn.place]), "weight": 1}
            learnt.append(turn.place)
    try:
        rejected = rejected and target(rejected, tools)
    except Unusable as reason:
        return {"row_id": run.request_id, "dropped": str(reason)}
    if not learnt:
        return {"row_id": run.request_id, "dropped": "no turn to learn"}
    messages = _renumbered(messages[: learnt[-1] + 1])
    del messages[-1]["weight"]
    read = [
        [message.get("role"), _plain(message.get("content")), message.get("tool_calls")]
        for place, message in enumerate(messages)
        if place not in learnt
    ]
    # What was sampled is what was said only where nothing had to be scrubbed.
    sampled = [
        {name: getattr(turn, name) for name in ("request_id", "version", "token_ids", "logprobs")}
        for turn in run.turns
        if turn.token_ids and not scrubber.counts
    ]
    return {
        "row_id": run.request_id,
        "time": run.time,
        "session": run.session,
        "slice": f"agent:{run.agent}",
        "messages": _write(messages).decode(),
        "tools": tools_text,
        "options": _write(run.sampling).decode(),
        "rejected": rejected and _write(rejected).decode(),
        "prompt": _identity([read, offered]),
        "target": _identity([[messages[place] for place in learnt], offered]),
        # As it began: runs of one task are near to each other, whatever they came to.
        "spoken": spoken(messages[: learnt[0]]),
        "scrubbed": _write(scrubber.counts).decode(),
        "origin": "run",
        "key": run.key,
        "turns": len(learnt),
        "ids": run.record_ids,
        "sampled": _write(sampled).decode() if sampled else None,
    }


def _same_ids(said: Message, before: Message) -> Message:
    """The canonical message with the ids that its results refer to."""
    if "tool_calls" not in said:
        return said
    calls = zip(said["tool_calls"], before["tool_calls"], strict=True)
    return {**said, "tool_calls": [{**call, "id": old.get("id") or call["id"]} for call, old in calls]}


def _renumbered(messages: list[Message]) -> list[Message]:
    """Ids of calls, which are random, by position in the conversation; results refer to them still."""
    names: dict[str, str] = {}
    out, count = [], 0
    for message in messages:
        message = dict(message)
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                calls.append({**call, "id": f"call_{count}"})
                names[call.get("id") or ""] = f"call_{count}"
                count += 1
            message["tool_calls"] = calls
        if "tool_call_id" in message:
            message["tool_call_id"] = names.get(message["tool_call_id"], message["tool_call_id"])
        out.append(message)
    return out


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
            ("origin", pa.string()),
            ("key", pa.string()),
            ("touches", pa.list_(pa.string())),
            ("turns", pa.int32()),
            ("ids", pa.list_(pa.string())),
            ("sampled", pa.string()),
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
