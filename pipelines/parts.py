"""A snapshot's rows made into others in parts: each part is a durable file, and what is there is not made again.

    datasets/.prepared-HASH/00000.parquet    the first rows of the snapshot, prepared
    datasets/.prepared-HASH/00001.parquet    the next ones

Which rows a part is of depends on the snapshot alone. A job that was killed finds the parts that it had made, makes
those that are missing, and ends with the same files. Parts lie beside the step's folder until its output is complete.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster import durable

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 10_000
"""Rows that one worker prepares in a second or two: what a kill loses of its work."""
BATCH_ROWS = 1_000
"""Rows that are Python objects at a time."""

Places = NDArray[np.int64]
"""Numbers of rows, counted through all parts."""


@dataclass(frozen=True)
class Part:
    """Some of a snapshot's row groups, and the file that their rows are prepared into."""

    path: Path
    groups: tuple[tuple[str, int], ...]
    """File of the snapshot and number of the row group in it."""
    first: int
    """Number of its first row."""
    rows: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The snapshot's rows of this part."""
        import pyarrow.parquet as parquet

        for name, groups in itertools.groupby(self.groups, key=lambda group: group[0]):
            with parquet.ParquetFile(name) as file:
                yield from file.iter_batches(BATCH_ROWS, [number for _, number in groups])


class Parts:
    """All parts of a snapshot, prepared under `folder`."""

    def __init__(self, snapshot: Path, folder: Path) -> None:
        self.folder = folder
        self.all = list(_plan(snapshot, folder))

    def make(self, work: Callable[[pa.RecordBatch], pa.Table]) -> int:
        """Prepare what is missing, on Ray Data; how many parts were found made."""
        import pyarrow as pa
        import ray

        durable.make_folder(self.folder)
        missing = [number for number, part in enumerate(self.all) if not part.path.exists()]
        parts = self.all

        def one(row: dict[str, Any]) -> dict[str, Any]:
            part = parts[row["number"]]
            made = pa.concat_tables(work(batch) for batch in part.batches())
            durable.replace(part.path, _file(made))
            return row

        if missing:
            numbers = [{"number": number} for number in missing]
            ray.data.from_items(numbers, override_num_blocks=len(numbers)).map(one).materialize()
        return len(self.all) - len(missing)

    def columns(self, names: list[str]) -> pa.Table:
        """Some columns of all rows."""
        import pyarrow as pa

        return pa.concat_tables(self.read(number, names) for number in range(len(self.all)))

    def read(self, number: int, names: list[str]) -> pa.Table:
        import pyarrow.parquet as parquet

        return parquet.read_table(self.all[number].path, columns=names)

    def split(self, places: Places) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """By part: its number, and where in `places` its rows are. Parts without any are left out."""
        of = np.searchsorted([part.first for part in self.all], places, side="right") - 1
        order = np.argsort(of, kind="stable")
        for where in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
            if where.size:
                yield int(of[where[0]]), where

    def take(self, places: Places, names: list[str]) -> pa.Table:
        """Some columns of some rows, in the order of their places; one part in memory at a time."""
        import pyarrow as pa

        places = np.sort(places)
        taken = [
            self.read(number, names).take(pa.array(places[where] - self.all[number].first))
            for number, where in self.split(places)
        ]
        return pa.concat_tables(taken) if taken else self.read(0, names).slice(0, 0)


def _plan(snapshot: Path, folder: Path) -> Iterator[Part]:
    import pyarrow.parquet as parquet

    groups: list[tuple[str, int]] = []
    number = first = rows = 0
    for path in sorted(snapshot.glob("*.parquet")):
        metadata = parquet.read_metadata(path)
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            if rows and rows + size > PART_ROWS:
                yield Part(folder / f"{number:05}.parquet", tuple(groups), first, rows)
                groups, number, first, rows = [], number + 1, first + rows, 0
            groups.append((str(path), group))
            rows += size
    if rows:
        yield Part(folder / f"{number:05}.parquet", tuple(groups), first, rows)


def _file(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    out = pa.BufferOutputStream()
    # Texts differ from row to row, and minima cannot be compressed: what repeats itself has a dictionary.
    repeats = [name for name in ("tools", "options", "slice", "dropped", "scrubbed") if name in table.column_names]
    parquet.write_table(table, out, compression="lz4", use_dictionary=repeats)
    return out.getvalue().to_pybytes()
