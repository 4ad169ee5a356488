"""Step 2: from answers with feedback, and runs with rewards, to a dataset: what to learn, what to measure on, and
nothing that is in both.

The work on single rows (choosing, scrubbing, hashing) runs on Ray Data in parts that outlive a kill
(`pipelines/parts.py`), and so does the writing of what was chosen. What needs all rows at once
(`pipelines/selection.py`) sees columns of hashes, some 350 bytes a row: texts of a million rows never are in one place.
"""

from __future__ import annotations

import heapq
import itertools
import json
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines import holdout
from pipelines.artifacts import Dataset, Snapshot, parsed
from pipelines.duplicates import HASHES, Shingles, clear, common, signatures
from pipelines.parts import Parts, Places
from pipelines.prepare import LIGHT, TEXTS, prepare_batch
from pipelines.recipe import CurationSettings
from pipelines.replay import replay, source_of
from pipelines.rows import columns, over, save, schema, write
from pipelines.selection import select, touching
from pipelines.steps import Run, TooLittle, digest, manifest
from pipelines.targets import Logged, spoken
from pipelines.trajectories import TASK

if TYPE_CHECKING:
    import pyarrow as pa

CODE = 3
"""Raised when the same inputs give another output than before."""
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
    _drop_parts(run.state)
    made = manifest(folder)
    dropped = ", ".join(f"{count} {reason}" for reason, count in made["dropped"].items()) or "nothing"
    run.report("curate", f"{made['rows']:,} rows, {made['replay_rows']:,} replay, {made['holdout_rows']:,} held out")
    run.say(f"{'':<22}left out: {dropped}")
    return Dataset(
        folder, made["digest"], made["rows"], made["replay_rows"], made["holdout_rows"], made["table_version"]
    )


def _curate(state: Path, alias: str, snapshot: Snapshot, settings: CurationSettings, out: Path) -> dict[str, Any]:
    ignored = common(sample(snapshot.path))
    parts = _parts(state, snapshot, settings)
    found = parts.make(lambda batch: prepare_batch(batch, settings, ignored))
    light = parts.columns(list(LIGHT))
    usable = np.flatnonzero(light["dropped"].is_null().to_numpy())
    dropped, scrubbed = _counts(light["dropped"]), _scrubbed(light["scrubbed"])
    light = light.drop_columns(["dropped", "scrubbed"]).rename_columns({"key": "session"}).take(usable)
    ids = _ids(light)

    held = holdout.read(state, alias)
    drawn = holdout.draw(_pairs(light, held), held, settings.holdout, alias)
    joins = _asked(light, drawn)
    also = _sessions(light, joins)
    old = np.concatenate([_minima_of(held.rows, ignored), _minima_of(_turns(parts, usable[joins]), ignored)])
    away = replace(held, sessions=held.sessions | also)
    chosen = select(light, away, drawn, old, lambda places: _minima(parts, usable[places]), settings.near_duplicate)
    dropped.update(chosen.dropped)
    if len(chosen.train) < settings.min_rows or not (held.rows or len(chosen.holdout)):
        raise TooLittle(_too_little(len(chosen.train), drawn.waiting, settings))
    slices = _counts(light["slice"].take(chosen.train["place"]))
    del light
    train, measured = (_numbered(table, usable, ids) for table in (chosen.train, chosen.holdout))
    if drawn.slices:
        rows = [turn for row in _chosen_rows(parts, measured).to_pylist() for turn in _apart(row)]
        held = holdout.append(state, alias, replace(drawn, sessions=drawn.sessions | also), rows)

    learnt = _write_chosen(parts, train, out / "train")
    learnt += _write_sampled(parts, train, out / "sampled")
    again = _replay(state, alias, settings, train, held, ignored, dropped)
    learnt += write(out / "train" / "replay.parquet", again)
    asked = write(out / "holdout" / "holdout.parquet", list(held.rows))
    return {
        "digest": digest([over(learnt), over(asked)]),
        "table_version": snapshot.table_version,
        "rows": len(train),
        "replay_rows": len(again),
        "holdout_rows": len(held.rows),
        "holdout_digest": held.digest,
        "settings": settings.model_dump(mode="json"),
        "dropped": dict(sorted(dropped.items())),
        "scrubbed": dict(sorted(scrubbed.items())),
        "waiting": drawn.waiting,
        "slices": dict(sorted(slices.items())),
        "parts": len(parts.all),
        "parts_found": found,
    }


def _parts(state: Path, snapshot: Snapshot, settings: CurationSettings) -> Parts:
    """The snapshot's parts, some of them perhaps made already; those that other curations left behind go."""
    choices = [settings.min_score, settings.runs.min_reward, settings.scrub, settings.near_duplicate]
    made_of = [snapshot.path.name, *choices, CODE]
    folder = state / "datasets" / f".prepared-{digest(made_of)[:16]}"
    _drop_parts(state, but=folder)
    return Parts(snapshot.path, folder)


def _drop_parts(state: Path, but: Path | None = None) -> None:
    # The lock on cycles makes us the only one at work here.
    for folder in (state / "datasets").glob(".prepared-*"):
        if folder != but:
            shutil.rmtree(folder, ignore_errors=True)


def _minima(parts: Parts, places: Places) -> NDArray[np.uint32]:
    """Signatures of rows, in the order asked."""
    minima = np.empty((len(places), HASHES), dtype=np.uint32)
    for number, where in parts.split(places):
        rows = parts.read(number, ["signature"])["signature"].take(places[where] - parts.all[number].first)
        minima[where] = np.frombuffer(b"".join(rows.to_pylist()), dtype=np.uint32).reshape(-1, HASHES)
    return minima


def _minima_of(rows: Iterable[dict[str, Any]], ignored: Shingles) -> NDArray[np.uint32]:
    return signatures([spoken(json.loads(row["messages"])[:-1]) for row in rows], ignored)


def _numbered(table: pa.Table, usable: Places, ids: dict[str, list[str]]) -> pa.Table:
    """What was chosen among usable rows, with the numbers of all rows, in their order, and the ids of the log's."""
    import pyarrow as pa

    places = pa.array(usable[table["place"].to_numpy()], pa.int64())
    table = table.set_column(0, "place", places)
    if ids:
        known = [[row for one in each for row in ids.get(one, [one])] for each in table["record_ids"].to_pylist()]
        table = table.set_column(1, "record_ids", pa.array(known, pa.list_(pa.string())))
    return table.sort_by("place")


def _ids(light: pa.Table) -> dict[str, list[str]]:
    """By row: the log's rows that it came from, where these are not one record of its name."""
    import pyarrow.compute as pc

    runs = light.select(["row_id", "ids"]).filter(pc.is_valid(light["ids"]))
    return dict(zip(runs["row_id"].to_pylist(), runs["ids"].to_pylist(), strict=True))


def _asked(light: pa.Table, drawn: holdout.Draw) -> Places:
    """The rows of a draw."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sessions, slices = (pa.array(sorted(names), pa.string()) for names in (drawn.sessions, drawn.slices))
    asked = pc.and_(pc.is_in(light["session"], value_set=sessions), pc.is_in(light["slice"], value_set=slices))
    return np.flatnonzero(asked.to_numpy())


def _sessions(light: pa.Table, asked: Places) -> frozenset[str]:
    """What else is held out with the rows of a draw: the sessions that their runs were in."""
    touches = light["touches"].take(asked).to_pylist()
    return frozenset(one for each in touches for one in each or () if not one.startswith(TASK))


def _turns(parts: Parts, places: Places) -> list[dict[str, Any]]:
    """The turns of the runs among some rows: each will be asked."""
    if not len(places):
        return []
    rows = parts.take(places, [*TEXTS, "origin"]).to_pylist()
    return [turn for row in rows if row["origin"] == "run" for turn in _apart({**row, "record_ids": []})]


def _apart(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [columns(turn) for turn in parsed(row).turns()] if row["origin"] == "run" else [row]


def _chosen_rows(parts: Parts, chosen: pa.Table) -> pa.Table:
    """Chosen rows in a dataset's columns."""
    rows = parts.take(chosen["place"].to_numpy(), [*TEXTS, "origin"])
    rows = rows.append_column("record_ids", chosen["record_ids"])
    return rows.select(schema().names).cast(schema())


def _write_chosen(parts: Parts, chosen: pa.Table, folder: Path) -> list[bytes]:
    """A file for each part that has chosen rows, written on Ray Data; the digests of the rows, 32 bytes each."""
    import pyarrow as pa
    import ray

    folder.mkdir()
    split = list(parts.split(chosen["place"].to_numpy()))

    def one(batch: pa.Table) -> pa.Table:
        first = batch["place"][0].as_py()
        [(number, _)] = parts.split(np.array([first]))
        rows = _chosen_rows(parts, batch)
        return pa.table({"number": [number], "digests": [save(folder / f"{number:05}.parquet", rows)]})

    tables = [chosen.slice(int(where[0]), len(where)) for _, where in split]
    written = ray.data.from_arrow(tables).map_batches(one, batch_format="pyarrow", batch_size=None)
    return [digests for block in ray.get(written.to_arrow_refs()) for digests in block["digests"].to_pylist()]


def _write_sampled(parts: Parts, chosen: pa.Table, folder: Path) -> list[bytes]:
    """What the engine said of its tokens, of the chosen rows that have it; their digests."""
    import pyarrow.compute as pc
    import pyarrow.parquet as parquet

    made: list[bytes] = []
    for number, where in parts.split(chosen["place"].to_numpy()):
        rows = parts.take(chosen["place"].to_numpy()[where], ["row_id", "sampled"])
        rows = rows.filter(pc.is_valid(rows["sampled"]))
        if len(rows):
            folder.mkdir(exist_ok=True)
            parquet.write_table(rows, folder / f"{number:05}.parquet")
            made += [bytes.fromhex(digest(row)) for row in rows.to_pylist()]
    return made


def _replay(
    state: Path,
    alias: str,
    settings: CurationSettings,
    chosen: pa.Table,
    held: holdout.Held,
    ignored: Shingles,
    dropped: Counter[str],
) -> list[dict[str, Any]]:
    """Rows against forgetting in a dataset's columns; what is like a held-out row stays out here too."""
    source = source_of(state, alias, settings.replay)
    if source is None:
        return []
    known = set(chosen["record_ids"].combine_chunks().flatten().to_pylist())
    share = settings.replay.share
    wanted = replay(state, source, round(len(chosen) * share / (1 - share)), known, seed=0)
    held_ids = {request for row in held.rows for request in row["record_ids"]}
    old, new = _minima_of(held.rows, ignored), signatures([spoken(row.messages[:-1]) for row in wanted], ignored)
    clean = [
        row
        for row, away in zip(wanted, clear(new, old, settings.near_duplicate), strict=True)
        if away and row.session not in held.sessions and not held_ids & set(row.record_ids)
    ]
    if len(clean) < len(wanted):
        dropped["replay like a held-out row"] += len(wanted) - len(clean)
    return [columns(row) for row in clean]


def sample(folder: Path) -> list[str]:
    """What was said in some rows, the same ones however the rows lie in files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def drawn(request: str) -> tuple[int, str]:
        return zlib.crc32(request.encode()), request

    ids = (request for batch in _batches(folder, ["request_id"]) for request in batch["request_id"].to_pylist())
    few = pa.array(heapq.nsmallest(SAMPLE, ids, key=drawn), pa.string())
    bodies = (
        body
        for batch in _batches(folder, ["request_id", "body"])
        for body in batch.filter(pc.is_in(batch["request_id"], value_set=few))["body"].to_pylist()
    )
    return [spoken(msgspec.json.decode(body, type=Logged).messages) for body in bodies]


def _batches(folder: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as parquet

    for path in sorted(folder.glob("*.parquet")):
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)


def _pairs(light: pa.Table, held: holdout.Held) -> Iterator[tuple[str, str]]:
    """Session and slice of each turn that may be learnt."""
    import pyarrow as pa

    free = light.filter(pa.array(~touching(light["touches"], held.sessions)))
    for batch in free.select(["session", "slice", "turns"]).to_batches():
        for session, name, count in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield from itertools.repeat((session, name), count)


def _counts(column: Any) -> Counter[str]:
    return Counter({each["values"]: each["counts"] for each in column.drop_null().value_counts().to_pylist()})


def _scrubbed(column: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for counts, rows in _counts(column).items():
        total.update({kind: count * rows for kind, count in json.loads(counts).items()})
    return total


def _too_little(rows: int, waiting: dict[str, int], settings: CurationSettings) -> str:
    few = ", ".join(f"{name} {count}" for name, count in list(waiting.items())[:5])
    return (
        f"only {rows} rows to learn from, the recipe asks for {settings.min_rows}"
        + (f"; waiting for {4 * settings.holdout.min_rows} of each slice, there are: {few}" if waiting else "")
        + "; send more feedback, or lower curation.min_rows and curation.holdout.min_rows"
    )
