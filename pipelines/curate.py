"""Step 2: from answers with feedback to a dataset: what to learn, what to measure on, and nothing that is in both.

The work on single rows (choosing, scrubbing, hashing) runs in parallel on Ray Data. What needs all rows at once
(`pipelines/selection.py`) sees only hashes and signatures, some 800 bytes a row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.records import Message, Record
from pipelines import holdout
from pipelines.artifacts import Dataset, Snapshot, columns, dataset_digest, row_schema, write_rows
from pipelines.duplicates import Index, Shingles, common, signature
from pipelines.recipe import CurationSettings
from pipelines.replay import replay, source_of
from pipelines.scrub import Scrubber
from pipelines.selection import Light, select
from pipelines.steps import Run, TooLittle, digest, manifest
from pipelines.targets import Unusable, choose, slice_of, spoken, target

if TYPE_CHECKING:
    import pyarrow as pa

CODE = 3
"""Raised when the same inputs give another output than before."""
OPTIONS = ("tool_choice", "response_format", "parallel_tool_calls", "chat_template_kwargs")
"""What of the request's parameters decides prompt and well-formed answers; evaluation sends them again."""
LIGHT = ("row_id", "time", "session", "slice", "prompt", "target", "signature", "dropped", "scrubbed")
"""Columns of prepared rows that come to the driver."""
BLOCK_ROWS = 4000
"""Rows that one worker prepares in some seconds."""
SAMPLE = 500
"""Rows whose texts say which words are the application's own."""


def curate(run: Run, snapshot: Snapshot) -> Dataset:
    """Choose, scrub, split by session, remove duplicates and leaks, add replay."""
    settings, alias = run.recipe.curation, run.recipe.alias
    inputs = {
        "snapshot": snapshot.path.name,
        "alias": alias,
        "curation": settings.model_dump(mode="json"),
        "replay": source_of(run.state, alias, settings.replay),
        "code": CODE,
    }
    folder = run.step("curate", inputs, lambda out: _curate(run.state, alias, snapshot, settings, out))
    made = manifest(folder)
    dropped = ", ".join(f"{count} {reason}" for reason, count in made["dropped"].items()) or "nothing"
    run.report("curate", f"{made['rows']:,} rows, {made['replay_rows']:,} replay, {made['holdout_rows']:,} held out")
    run.say(f"{'':<22}left out: {dropped}")
    return Dataset(
        folder, made["digest"], made["rows"], made["replay_rows"], made["holdout_rows"], made["table_version"]
    )


def _curate(state: Path, alias: str, snapshot: Snapshot, settings: CurationSettings, out: Path) -> dict[str, Any]:
    import pyarrow as pa
    import ray

    ignored = common(_sample(snapshot.path))

    def work(batch: pa.Table) -> pa.Table:
        rows = [prepare(row["body"], row["feedback"], settings, ignored) for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows, _prepared_schema())

    # Ray's own choice of blocks starts a worker for each logical CPU, which takes longer than the rows of a small log.
    blocks = 1 + snapshot.rows // BLOCK_ROWS if snapshot.rows < 1_000_000 else None
    prepared = ray.data.read_parquet(str(snapshot.path), file_extensions=["parquet"], override_num_blocks=blocks)
    prepared = prepared.map_batches(work, batch_format="pyarrow", batch_size=None).materialize()

    table = _rows(prepared.select_columns(list(LIGHT)))
    dropped = Counter(row["dropped"] for row in table if row["dropped"])
    scrubbed: Counter[str] = Counter()
    rows = []
    for row in table:
        if not row.pop("dropped"):
            scrubbed.update(json.loads(row.pop("scrubbed")))
            rows.append(Light(**{**row, "signature": np.frombuffer(row["signature"], dtype=np.uint32)}))

    held = holdout.read(state, alias)
    drawn = holdout.draw(((row.session, row.slice) for row in rows), held, settings.holdout, alias)
    old = [signature(spoken(json.loads(row["messages"])[:-1]), ignored) for row in held.rows]
    chosen = select(rows, held, drawn, old, settings.near_duplicate)
    dropped.update(chosen.dropped)
    if len(chosen.train) < settings.min_rows or not (held.rows or chosen.holdout):
        raise TooLittle(_too_little(len(chosen.train), drawn.waiting, settings))
    if drawn.slices:
        held = holdout.append(state, alias, drawn, _rows(_pick(prepared, chosen.holdout)))

    _pick(prepared, chosen.train).write_parquet(str(out / "train"))
    known = {request for ids in chosen.train.values() for request in ids}
    again = _replay(state, alias, settings, len(chosen.train), known, held, ignored, dropped)
    write_rows(out / "train" / "replay.parquet", again)
    write_rows(out / "holdout" / "holdout.parquet", list(held.rows))
    return {
        "digest": dataset_digest(out),
        "table_version": snapshot.table_version,
        "rows": len(chosen.train),
        "replay_rows": len(again),
        "holdout_rows": len(held.rows),
        "holdout_digest": held.digest,
        "settings": settings.model_dump(mode="json"),
        "dropped": dict(sorted(dropped.items())),
        "scrubbed": dict(sorted(scrubbed.items())),
        "waiting": drawn.waiting,
        "slices": dict(sorted(Counter(row.slice for row in rows if row.row_id in chosen.train).items())),
    }


def prepare(body: str, feedback: str, settings: CurationSettings, ignored: Shingles) -> dict[str, Any]:
    """One record with its feedback as a row, or the reason why it is none."""
    record = Record.model_validate_json(body)
    try:
        answer = choose(record, json.loads(feedback), settings.min_score)
        scrubber = Scrubber(settings.scrub)
        messages = [scrubber.message(message) for message in record.messages]
        answer = target(scrubber.message(answer), record.tools)
    except Unusable as reason:
        return {"row_id": record.request_id, "dropped": str(reason)}
    rejected = corrected(record, answer, scrubber)
    options = {name: record.sampling[name] for name in OPTIONS if name in record.sampling}
    tools = json.dumps(record.tools, ensure_ascii=False)
    said = [[message.get("role"), _plain(message.get("content")), message.get("tool_calls")] for message in messages]
    return {
        "row_id": record.request_id,
        "time": record.time,
        "session": record.session,
        "slice": slice_of(answer),
        "messages": json.dumps([*messages, answer], ensure_ascii=False),
        "tools": tools,
        "options": json.dumps(options, ensure_ascii=False),
        "rejected": rejected and json.dumps(rejected, ensure_ascii=False),
        "prompt": digest([said, tools]),
        "target": digest([answer, tools]),
        "signature": signature(spoken(messages), ignored).tobytes(),
        "scrubbed": json.dumps(scrubber.counts),
    }


def corrected(record: Record, answer: Message, scrubber: Scrubber) -> Message | None:
    """The answer that was given, in canonical form, if the target is another one: what not to say."""
    if record.answer is None or record.finish_reason == "length":
        return None
    try:
        given = target(scrubber.message(record.answer), record.tools)
    except Unusable:
        return None
    return given if given != answer else None


def _pick(prepared: Any, chosen: dict[str, list[str]]) -> Any:
    """The chosen of the prepared rows, in a dataset's columns."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids, records = pa.array(list(chosen), pa.string()), pa.array(list(chosen.values()), pa.list_(pa.string()))

    def pick(batch: pa.Table) -> pa.Table:
        place = pc.index_in(batch["row_id"], value_set=ids)
        batch = batch.append_column("record_ids", records.take(place.combine_chunks()))
        batch = batch.append_column("origin", pa.repeat(pa.scalar("log"), len(batch)))
        return batch.filter(pc.is_valid(place)).select(row_schema().names).cast(row_schema())

    return prepared.map_batches(pick, batch_format="pyarrow", batch_size=None)


def _replay(
    state: Path,
    alias: str,
    settings: CurationSettings,
    rows: int,
    known: set[str],
    held: holdout.Held,
    ignored: Shingles,
    dropped: Counter[str],
) -> list[dict[str, Any]]:
    """Rows against forgetting in a dataset's columns; what is like a held-out row stays out here too."""
    source = source_of(state, alias, settings.replay)
    if source is None:
        return []
    share = settings.replay.share
    wanted = replay(state, source, round(rows * share / (1 - share)), known, seed=0)
    near = Index(settings.near_duplicate)
    for row in held.rows:
        near.add(None, signature(spoken(json.loads(row["messages"])[:-1]), ignored))
    held_ids = {request for row in held.rows for request in row["record_ids"]}
    clean = [
        row
        for row in wanted
        if row.session not in held.sessions
        and not held_ids & set(row.record_ids)
        and not near.find(signature(spoken(row.messages[:-1]), ignored))
    ]
    if len(clean) < len(wanted):
        dropped["replay like a held-out row"] += len(wanted) - len(clean)
    return [columns(row) for row in clean]


def _rows(dataset: Any) -> list[dict[str, Any]]:
    """All rows of a Ray dataset here."""
    import ray

    return [row for block in ray.get(dataset.to_arrow_refs()) for row in block.to_pylist()]


def _prepared_schema() -> pa.Schema:
    import pyarrow as pa

    rows = ("row_id", "session", "slice", "messages", "tools", "options", "rejected")
    names = (*rows, "prompt", "target", "scrubbed", "dropped")
    return pa.schema([*((name, pa.string()) for name in names), ("time", pa.float64()), ("signature", pa.binary())])


def _sample(folder: Path) -> list[str]:
    """What was said in some rows, the same ones however the rows lie in files."""
    import pyarrow.compute as pc
    import pyarrow.dataset as datasets

    rows = datasets.dataset(str(folder), format="parquet", exclude_invalid_files=True)
    ids = rows.to_table(columns=["request_id"]).column(0).to_pylist()
    few = sorted(ids, key=digest)[:SAMPLE]
    bodies = rows.to_table(columns=["body"], filter=pc.field("request_id").isin(few)).column(0).to_pylist()
    return [spoken(Record.model_validate_json(body).messages) for body in bodies]


def _plain(content: Any) -> Any:
    return re.sub(r"\s+", " ", content).strip() if isinstance(content, str) else content


def _too_little(rows: int, waiting: dict[str, int], settings: CurationSettings) -> str:
    few = ", ".join(f"{name} {count}" for name, count in list(waiting.items())[:5])
    return (
        f"only {rows} rows to learn from, the recipe asks for {settings.min_rows}"
        + (f"; waiting for {4 * settings.holdout.min_rows} of each slice, there are: {few}" if waiting else "")
        + "; send more feedback, or lower curation.min_rows and curation.holdout.min_rows"
    )
