"""Ours and its peers at curation: each takes a snapshot to a folder of training rows and says which they are.

All of them prepare a row with the same functions (`pipelines.prepare`: choosing, scrubbing, targets, minima) and choose
the same rows; they differ in what carries the rows, and in what finds those that belong together. Hugging Face
`datasets` has nothing for that and gets our choice; polars has, and does all but the comparison of minima itself.
A contender's process says `ready` once what it needs is imported and started, and `done` with a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.settings import Settings
from pipelines import holdout
from pipelines.artifacts import Snapshot
from pipelines.curate import curate, sample
from pipelines.duplicates import HASHES, Shingles, bands, clear, common, distinct
from pipelines.holdout import Draw, Held
from pipelines.prepare import prepare_batch
from pipelines.recipe import CurationSettings, Recipe
from pipelines.selection import select
from pipelines.steps import Run

SETTINGS = CurationSettings.model_validate({"replay": {"share": 0}})
NONE_HELD = np.empty((0, HASHES), dtype=np.uint32)
KEPT = ["row_id", "messages", "tools", "options", "session", "slice"]


def ours(cores: int, folder: Path) -> Callable[[Snapshot], list[str]]:
    import ray

    from pipelines.cycle import connect

    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    settings = Settings(state=folder)
    connect(settings)
    # In a cycle `collect` comes before, on the same workers.
    ray.data.range(cores, override_num_blocks=cores).map(lambda row: row).materialize()

    def run(snapshot: Snapshot) -> list[str]:
        begun = Run.open(settings, Recipe(curation=SETTINGS), "benchmark", say=lambda _: None)
        return [str(path) for path in (curate(begun, snapshot).path / "train").glob("*.parquet")]

    return run


def with_datasets(cores: int, folder: Path) -> Callable[[Snapshot], list[str]]:
    import datasets

    datasets.disable_progress_bars()

    def run(snapshot: Snapshot) -> list[str]:
        ignored = common(sample(snapshot.path))
        rows = datasets.load_dataset(
            "parquet", data_files=str(snapshot.path / "*.parquet"), split="train", cache_dir=str(folder / "cache")
        )
        work = {"function": _prepare, "fn_kwargs": {"ignored": ignored}, "remove_columns": rows.column_names}
        rows = rows.map(batched=True, batch_size=1000, num_proc=cores, **work)
        rows = rows.filter(_usable, batched=True, input_columns=["dropped"], num_proc=cores)
        # Out of a million rows `select` leaves indices; those that come into memory are the columns of hashes.
        light = rows.remove_columns(["messages", "tools", "options", "signature"]).with_format("arrow")[:]
        light = light.append_column("keys", light["bands"].cast(pa.binary(len(light["bands"][0].as_py()))))
        light = light.drop_columns(["bands"]).rename_columns({"keys": "bands"})  # `datasets` knows no fixed widths
        drawn = _draw(light["session"].to_pylist(), light["slice"].to_pylist())
        minima = rows.select_columns(["signature"]).with_format("arrow")
        chosen = select(light, Held(), drawn, NONE_HELD, lambda p: _minima(minima[p]["signature"]), 0.85)
        train = rows.select(chosen.train["place"].to_pylist()).select_columns(KEPT)
        train = train.add_column("record_ids", chosen.train["record_ids"].combine_chunks())
        train.to_parquet(folder / "train.parquet")
        return [str(folder / "train.parquet")]

    return run


def _prepare(batch: dict[str, list[Any]], ignored: Shingles) -> dict[str, Any]:
    return prepare_batch(pa.RecordBatch.from_pydict(batch), SETTINGS, ignored).to_pydict()


def _usable(dropped: list[str | None]) -> list[bool]:
    return [reason is None for reason in dropped]


def with_polars(cores: int, folder: Path) -> Callable[[Snapshot], list[str]]:
    import polars as pl

    def run(snapshot: Snapshot) -> list[str]:
        ignored = common(sample(snapshot.path))

        def work(batch: pl.DataFrame) -> pl.DataFrame:
            made = [pl.from_arrow(prepare_batch(each, SETTINGS, ignored)) for each in batch.to_arrow().to_batches(1000)]
            return pl.concat([each for each in made if isinstance(each, pl.DataFrame)])

        # Some at a time: the log's bodies need not be in memory at once.
        batches = pl.scan_parquet(snapshot.path / "*.parquet").collect_batches(chunk_size=10_000)
        rows = pl.concat([work(batch) for batch in batches]).filter(pl.col("dropped").is_null())
        drawn = _draw(rows["session"].to_list(), rows["slice"].to_list())
        rows = rows.sort(["time", "row_id"], descending=[True, False]).with_row_index("place")
        asked = pl.col("session").is_in(list(drawn.sessions)) & pl.col("slice").is_in(list(drawn.slices))
        away = pl.col("session").is_in(list(drawn.sessions)) | pl.col("slice").is_in(list(drawn.waiting))
        held = rows.filter(asked)
        learnt = rows.filter(~asked & ~away)
        learnt = learnt.filter(~pl.Series(_near(learnt, held)))
        pairs = learnt.group_by("prompt", "target").agg(
            pl.col("place").min(), pl.len(), pl.col("row_id").sort().alias("record_ids")
        )
        met = learnt.group_by("prompt").agg(pl.col("place").min().alias("met"))
        best = pairs.sort(["len", "place"], descending=[True, False]).unique("prompt", keep="first")
        best = best.join(met, on="prompt").sort("met").select("place", "record_ids")
        heads = best.join(learnt, on="place", how="left", maintain_order="left")
        keys = _matrix(heads["bands"])
        groups = heads["target"].rank("dense").to_numpy().astype(np.int64)
        stays = distinct(keys, groups, lambda p: _minima(heads["signature"].gather(p).to_arrow()), 0.85)
        heads.filter(pl.Series(stays)).select([*KEPT, "record_ids"]).write_parquet(folder / "train.parquet")
        return [str(folder / "train.parquet")]

    def _matrix(column: pl.Series) -> NDArray[np.uint64]:
        return np.frombuffer(b"".join(column.to_list()), dtype=np.uint64).reshape(len(column), -1)

    def _near(learnt: pl.DataFrame, held: pl.DataFrame) -> NDArray[np.bool_]:
        """Which rows are near to a held-out one: those that share a key are looked at."""
        minima = _minima(held["signature"].to_arrow())
        keys = bands(minima, 0.85)
        table = pl.DataFrame(_matrix(learnt["bands"]))
        held_keys = [pl.Series(np.unique(column)).implode() for column in keys.T]
        shared = [pl.col(name).is_in(known) for name, known in zip(table.columns, held_keys, strict=True)]
        asked = np.flatnonzero(table.select(pl.any_horizontal(shared)).to_series().to_numpy())
        near = np.zeros(len(learnt), dtype=bool)
        near[asked] = ~clear(_minima(learnt["signature"].gather(asked).to_arrow()), minima, 0.85)
        return near

    return run


def _draw(sessions: list[str], slices: list[str]) -> Draw:
    return holdout.draw(zip(sessions, slices, strict=True), Held(), SETTINGS.holdout, "assistant")


def _minima(column: Any) -> NDArray[np.uint32]:
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint32).reshape(-1, HASHES)


CONTENDERS = {"ours": ours, "datasets": with_datasets, "polars": with_polars}


def main(name: str, snapshot: str, rows: str, folder: str, cores: str) -> None:
    import pyarrow.dataset as files

    run = CONTENDERS[name](int(cores), Path(folder))
    print("ready", flush=True)
    sys.stdin.readline()
    written = run(Snapshot(Path(snapshot), 0, int(rows)))
    print("done", flush=True)
    sys.stdin.readline()
    ids = sorted(files.dataset(written).to_table(columns=["row_id"])["row_id"].to_pylist())
    print(json.dumps({"kept": len(ids), "digest": hashlib.sha256("".join(ids).encode()).hexdigest()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
