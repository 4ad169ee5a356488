"""Step 1: the log's answered requests and agents' runs of a window, with what was thought of them, at one version of
the table.

The table is pinned before it is read, so what comes in meanwhile belongs to the next cycle and a resumed cycle reads
what the killed one read. Feedback is joined by request id: a later one of the same source replaces the earlier.

A row of the output: `request_id`, `body` (the record as JSON), `feedback` (JSON: [score, correction, source] of each
source, the most trusted first). Where there are runs, each is a row too (`pipelines/trajectories.py`): `body` is then a
`Journey`, `feedback` is null, and an answer within it is no row of its own unless somebody corrected it. `touches` is
there only if runs are: sessions, and templates of tasks (`task:NAME`), that a row may not be learnt apart from.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.log import Log, nodes
from cluster.records import Feedback
from pipelines import trajectories
from pipelines.artifacts import Snapshot
from pipelines.recipe import RunSettings, WindowSettings
from pipelines.steps import Run, TooLittle, manifest
from pipelines.targets import Logged
from pipelines.trajectories import Journey, Sampled, Told

if TYPE_CHECKING:
    import pyarrow as pa

CODE = 1
"""Raised when the same inputs give another output than before."""
DAY_S = 86_400
RUNS = 1_000
"""Whose conversations one worker puts together."""
GROUP_ROWS = 2_000
"""Of a row group: what comes after reads the snapshot in parts of whole ones."""


def collect(run: Run) -> Snapshot:
    """Compact the log, pin its table, and write what the recipe's window holds of it."""
    log = Log.here(run.settings)
    if run.record.table_version is None:
        run.update(table_version=nodes.compact(run.settings).table_version)
    version, window, alias = run.record.table_version, run.recipe.window, run.recipe.alias
    runs = run.recipe.curation.runs
    assert version is not None
    inputs = {
        "table": _table_id(log.table_uri, version),
        "table_version": version,
        "alias": alias,
        "window": window.model_dump(mode="json"),
        "runs": runs.model_dump(mode="json"),
        "code": CODE,
    }
    try:
        folder = run.step("collect", inputs, lambda out: _collect(log.table_uri, version, alias, window, runs, out))
    except TooLittle:
        # All of it was looked at: without more feedback the wheel must not ask again, and again.
        run.update(newest=run.record.started)
        raise
    counts = manifest(folder)["counts"]
    run.update(newest=manifest(folder)["newest"])
    answers = counts["rows"] - counts.get("runs", 0)
    run.report("collect", f"table version {version}: {answers:,} of {counts['records']:,} answers have feedback")
    if "runs" in counts:
        what = {"trajectories": "rewarded runs", "preferences": "preferences between rewarded runs"}[runs.learn]
        run.say(f"{'':<22}{counts['runs']:,} {what}")
    return Snapshot(folder, version, counts["rows"])


def _collect(
    table_uri: str, version: int, alias: str, window: WindowSettings, wanted: RunSettings, out: Path
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import ray
    from ray.data.expressions import col

    columns = ["kind", "request_id", "time", "session", "alias", "body"]
    blocks = _blocks(table_uri, version)
    table = ray.data.read_delta(table_uri, version=version, columns=columns, override_num_blocks=blocks)
    blocks = ray.get(table.filter(expr=col("kind") == "feedback").select_columns(["body"]).to_arrow_refs())
    # A block without rows has no columns either.
    bodies = (body for block in blocks if block.num_rows for body in block.column("body").to_pylist())
    latest = newest(map(Feedback.model_validate_json, bodies), window.max_records)
    told = _told(table_uri, version, table, latest) if wanted.learn != "nothing" else {}
    times = [entry.time for entries in latest.values() for entry in entries]
    times += [run.newest for run in told.values() if run.rewards]
    if not times:
        raise TooLittle("the log holds no feedback; send some to /v1/feedback first")
    # The window counts back from the newest feedback, not from now: the same table gives the same rows on any day.
    last = max(times)
    since = last - window.days * DAY_S
    told = {name: run for name, run in told.items() if run.started is not None and run.started >= since}
    runs, templates = trajectories.chosen(told.values(), wanted), trajectories.touched(told.values())
    corrected = {request for request, entries in latest.items() if any(entry.correction for entry in entries)}
    within = {turn.request_id for run in runs for turn in run.turns} - corrected
    records = (col("kind") == "record") & (col("alias") == alias) & (col("time") >= since)

    # Broadcast join: feedback on at most `max_records` requests fits into memory, the log's bodies need not. It goes
    # with the function: a task that waits in `ray.get` gives its CPU away, and Ray starts another worker for that.
    ranked = {
        request: json.dumps(rank(entries, window.sources))
        for request, entries in latest.items()
        if request not in within
    }
    texts = {"request_id": list(ranked), "feedback": list(ranked.values())}
    known = pa.table(texts, schema=pa.schema([("request_id", pa.string()), ("feedback", pa.string())]))

    def join(batch: pa.Table) -> pa.Table:
        place = pc.index_in(batch["request_id"], value_set=known["request_id"].combine_chunks())
        joined = batch.append_column("feedback", known["feedback"].take(place)).filter(pc.is_valid(place))
        if not told:
            return joined.select(["request_id", "body", "feedback"])
        touches = [[session, *templates.get(session, ())] for session in joined["session"].to_pylist()]
        joined = joined.append_column("touches", pa.array(touches, pa.list_(pa.string())))
        return joined.select(["request_id", "body", "feedback", "touches"])

    answered = table.filter(expr=records)
    answered.map_batches(join, batch_format="pyarrow", batch_size=None).write_parquet(
        str(out), row_group_size=GROUP_ROWS
    )
    answers = _rows(out)
    if runs:
        steps = table.filter(expr=col("kind") == "step")
        _write_runs(answered.union(steps), runs, templates, corrected, wanted, out)
    rows = _rows(out)
    if not rows:
        raise TooLittle(
            f"no request to {alias} of the last {window.days:g} days has feedback; send some to /v1/feedback"
        )
    counts = {"records": _count(table_uri, version, alias, since), "feedback": len(latest), "rows": rows}
    if runs:
        counts["runs"] = rows - answers
    return {"counts": counts, "newest": last}


def _told(table_uri: str, version: int, table: Any, latest: Mapping[str, list[Feedback]]) -> dict[str, Told]:
    """All runs of the table by their journals, with the feedback on their answers among their rewards."""
    import pyarrow as pa
    import ray
    from ray.data.expressions import col

    if not _steps(table_uri, version):
        return {}

    def brief(batch: pa.Table) -> pa.Table:
        briefs = filter(None, map(trajectories.brief, batch["body"].to_pylist()))
        return pa.table({"brief": pa.array(map(trajectories.packed, briefs), pa.binary())})

    steps = table.filter(expr=col("kind") == "step").select_columns(["body"])
    blocks = ray.get(steps.map_batches(brief, batch_format="pyarrow", batch_size=None).to_arrow_refs())
    packed = (each for block in blocks if block.num_rows for each in block.column("brief").to_pylist())
    told = trajectories.fold(map(trajectories.unpacked, packed))
    for run in told.values():
        for turn in run.turns:
            for entry in latest.get(turn.request_id, ()):
                run.add(entry.time, entry.source, entry.score)
    return told


def _write_runs(
    entries: Any,
    runs: list[Told],
    templates: Mapping[str, list[str]],
    corrected: set[str],
    settings: RunSettings,
    out: Path,
) -> None:
    """The conversations of the runs, or the preferences between them, out of records and steps."""
    import msgspec
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as parquet
    import ray

    by_name = {run.run: run for run in runs}
    # Runs of one task come together where they are compared, else each run by itself.
    group = {run.run: run.task if settings.learn == "preferences" else run.run for run in runs}
    parts = 1 + len(runs) // RUNS
    pieces = [(turn.request_id, run.run) for run in runs for turn in run.turns]
    pieces += [(f"{run.run}/{turn.number}", run.run) for run in runs for turn in run.turns]
    known = pa.table(
        {
            "id": pa.array([piece for piece, _ in pieces], pa.string()),
            "run": pa.array([run for _, run in pieces], pa.string()),
            "group": pa.array([group[run] for _, run in pieces], pa.string()),
            "part": pa.array([zlib.crc32(group[run].encode()) % parts for _, run in pieces], pa.int32()),
        }
    )

    def pick(batch: pa.Table) -> pa.Table:
        place = pc.index_in(batch["request_id"], value_set=known["id"].combine_chunks())
        picked = batch.select(["kind", "request_id", "body"])
        for name in ("run", "group", "part"):
            picked = picked.append_column(name, known[name].take(place))
        return picked.filter(pc.is_valid(place))

    def journeys(rows: list[dict[str, Any]]) -> list[Journey]:
        records: dict[str, dict[str, Logged]] = defaultdict(dict)
        tokens: dict[str, dict[str, Sampled]] = defaultdict(dict)
        for row in rows:
            if row["kind"] == "record":
                records[row["run"]][row["request_id"]] = trajectories.logged(row["body"])
            else:
                sampled = trajectories.sampled(row["body"])
                tokens[row["run"]][sampled.request_id] = sampled
        found = [
            journey
            for name in sorted(records)
            for journey in trajectories.journeys(
                by_name[name], records[name], tokens[name], corrected, settings.sources
            )
        ]
        return list(trajectories.preferences(found, settings.min_gap)) if settings.learn == "preferences" else found

    # A shuffle would start an actor for each of its parts. All blocks are in the object store already, where every task
    # can look for its own rows.
    picked = entries.map_batches(pick, batch_format="pyarrow", batch_size=None).to_arrow_refs()

    def write(row: dict[str, Any]) -> dict[str, Any]:
        blocks = [block for block in ray.get(picked) if block.num_rows]
        mine = [block.filter(pc.equal(block["part"], row["part"])) for block in blocks]
        by_group: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for each in (each for block in mine for each in block.to_pylist()):
            by_group[each["group"]].append(each)
        found = [journey for name in sorted(by_group) for journey in journeys(by_group[name])]
        touches = [
            sorted({*each.sessions, *(name for session in each.sessions for name in templates.get(session, ()))})
            for each in found
        ]
        made = {
            "request_id": pa.array([each.request_id for each in found], pa.string()),
            "body": pa.array([msgspec.json.encode(each).decode() for each in found], pa.string()),
            "feedback": pa.nulls(len(found), pa.string()),
            "touches": pa.array(touches, pa.list_(pa.string())),
        }
        parquet.write_table(pa.table(made), out / f"runs-{row['part']:05}.parquet", row_group_size=GROUP_ROWS)
        return row

    numbers = [{"part": part} for part in range(parts)]
    ray.data.from_items(numbers, override_num_blocks=parts).map(write).materialize()


def _rows(out: Path) -> int:
    import pyarrow.parquet as parquet

    return sum(parquet.read_metadata(file).num_rows for file in out.glob("*.parquet"))


def _steps(table_uri: str, version: int) -> int:
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    data = DeltaTable(table_uri, version=version).to_pyarrow_dataset()
    return data.count_rows(filter=pc.field("kind") == "step")


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
