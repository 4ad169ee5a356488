"""Step 1: the log's answered requests of a window, with what was thought of them, at one version of the table.

The table is pinned before it is read, so what comes in meanwhile belongs to the next cycle and a resumed cycle reads
what the killed one read. Feedback is joined by request id: a later one of the same source replaces the earlier.

A row of the output: `request_id`, `body` (the record as JSON), `feedback` (JSON: [score, correction, source] of each
source, the most trusted first).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.log import Log, nodes
from cluster.records import Feedback
from pipelines.artifacts import Snapshot
from pipelines.recipe import WindowSettings
from pipelines.steps import Run, TooLittle, manifest

if TYPE_CHECKING:
    import pyarrow as pa

CODE = 1
"""Raised when the same inputs give another output than before."""
DAY_S = 86_400
GROUP_ROWS = 2_000
"""Of a row group: what comes after reads the snapshot in parts of whole ones."""


def collect(run: Run) -> Snapshot:
    """Compact the log, pin its table, and write what the recipe's window holds of it."""
    log = Log.here(run.settings)
    if run.record.table_version is None:
        run.update(table_version=nodes.compact(run.settings).table_version)
    version, window, alias = run.record.table_version, run.recipe.window, run.recipe.alias
    assert version is not None
    inputs = {
        "table": _table_id(log.table_uri, version),
        "table_version": version,
        "alias": alias,
        "window": window.model_dump(mode="json"),
        "code": CODE,
    }
    try:
        folder = run.step("collect", inputs, lambda out: _collect(log.table_uri, version, alias, window, out))
    except TooLittle:
        # All of it was looked at: without more feedback the wheel must not ask again, and again.
        run.update(newest=run.record.started)
        raise
    counts = manifest(folder)["counts"]
    run.update(newest=manifest(folder)["newest"])
    run.report("collect", f"table version {version}: {counts['rows']:,} of {counts['records']:,} answers have feedback")
    return Snapshot(folder, version, counts["rows"])


def _collect(table_uri: str, version: int, alias: str, window: WindowSettings, out: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import ray
    from ray.data.expressions import col

    columns = ["kind", "request_id", "time", "alias", "body"]
    blocks = _blocks(table_uri, version)
    table = ray.data.read_delta(table_uri, version=version, columns=columns, override_num_blocks=blocks)
    blocks = ray.get(table.filter(expr=col("kind") == "feedback").select_columns(["body"]).to_arrow_refs())
    # A block without rows has no columns either.
    bodies = (body for block in blocks if block.num_rows for body in block.column("body").to_pylist())
    latest = newest(map(Feedback.model_validate_json, bodies), window.max_records)
    if not latest:
        raise TooLittle("the log holds no feedback; send some to /v1/feedback first")
    # The window counts back from the newest feedback, not from now: the same table gives the same rows on any day.
    last = max(entry.time for entries in latest.values() for entry in entries)
    since = last - window.days * DAY_S
    records = (col("kind") == "record") & (col("alias") == alias) & (col("time") >= since)

    # Broadcast join: feedback on at most `max_records` requests fits into memory, the log's bodies need not. It goes
    # with the function: a task that waits in `ray.get` gives its CPU away, and Ray starts another worker for that.
    ranked = {request: json.dumps(rank(entries, window.sources)) for request, entries in latest.items()}
    known = pa.table({"request_id": list(ranked), "feedback": list(ranked.values())})

    def join(batch: pa.Table) -> pa.Table:
        place = pc.index_in(batch["request_id"], value_set=known["request_id"].combine_chunks())
        joined = batch.append_column("feedback", known["feedback"].take(place))
        return joined.filter(pc.is_valid(place)).select(["request_id", "body", "feedback"])

    table.filter(expr=records).map_batches(join, batch_format="pyarrow", batch_size=None).write_parquet(
        str(out), row_group_size=GROUP_ROWS
    )
    rows = sum(pa.parquet.read_metadata(file).num_rows for file in out.glob("*.parquet"))
    if not rows:
        raise TooLittle(
            f"no request to {alias} of the last {window.days:g} days has feedback; send some to /v1/feedback"
        )
    counts = {"records": _count(table_uri, version, alias, since), "feedback": len(latest), "rows": rows}
    return {"counts": counts, "newest": last}


def newest(entries: Iterable[Feedback], limit: int) -> dict[str, list[Feedback]]:
    """The last feedback of each source by request, for the `limit` requests that got feedback last."""
    last: dict[tuple[str, str], Feedback] = {}
    for entry in entries:
        key = entry.request_id, entry.source
        # Of two at the same instant the larger JSON wins: some rule that does not depend on the order of reading.
        if key not in last or (entry.time, entry.model_dump_json()) >= (last[key].time, last[key].model_dump_json()):
            last[key] = entry
    by_request: dict[str, list[Feedback]] = {}
    for (request, _), entry in sorted(last.items(), key=lambda item: (-item[1].time, item[0])):
        if request in by_request or len(by_request) < limit:
            by_request.setdefault(request, []).append(entry)
    return by_request


def rank(entries: list[Feedback], sources: tuple[str, ...]) -> list[tuple[float, Any, str]]:
    """Score, correction and source of each, the most trusted source first; those not named come after, latest first."""
    places = {source: place for place, source in enumerate(sources)}
    ordered = sorted(entries, key=lambda entry: (places.get(entry.source, len(places)), -entry.time, entry.source))
    return [(entry.score, entry.correction, entry.source) for entry in ordered]


def _table_id(table_uri: str, version: int) -> str:
    """Which table: one that was rebuilt from its segments counts its versions anew."""
    from deltalake import DeltaTable

    return str(DeltaTable(table_uri, version=version).metadata().id)


def _blocks(table_uri: str, version: int) -> int | None:
    """Few blocks for a small table, where each costs more than its rows do; Ray's own choice for a large one."""
    from deltalake import DeltaTable

    rows = DeltaTable(table_uri, version=version).to_pyarrow_dataset().count_rows()
    return 1 + rows // 10_000 if rows < 1_000_000 else None


def _count(table_uri: str, version: int, alias: str, since: float) -> int:
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    wanted = (pc.field("kind") == "record") & (pc.field("alias") == alias) & (pc.field("time") >= since)
    return DeltaTable(table_uri, version=version).to_pyarrow_dataset().count_rows(filter=wanted)
