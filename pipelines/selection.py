"""Which rows are learnt, which are measured on, and which are left out. Plain functions on columns of hashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.duplicates import Bands, among, bands, clear, distinct
from pipelines.holdout import Draw, Held

if TYPE_CHECKING:
    import pyarrow as pa

Places = NDArray[np.int64]
"""Numbers of rows in the table that is chosen from."""
Signatures = Callable[[Places], NDArray[np.uint32]]
"""Gives the signatures of some rows, in the order asked: they are too large to hold those of all."""


@dataclass(frozen=True)
class Selection:
    """Rows to keep, as tables of `place` (of the row) and `record_ids` (of all records that it stands for)."""

    train: pa.Table
    holdout: pa.Table
    dropped: Counter[str]


def select(
    rows: pa.Table, held: Held, drawn: Draw, old: NDArray[np.uint32], signatures: Signatures, threshold: float
) -> Selection:
    """Which rows are kept, and where. Pure, and the same for any order of rows.

    `rows` has `row_id`, `time`, `session` and `slice`; `prompt`, a digest of the conversation and the tools offered,
    white space aside; `target`, one of the answer and the tools; and `bands` (`duplicates.bands` as bytes); perhaps
    `touches`, what else keeps it from being learnt if it is held out. `old` are the signatures of the rows that were
    held out before.
    """
    chooser = _Chooser(rows, signatures, threshold)
    dropped = chooser.dropped
    drawn_session, drawn_slice = _is_in(rows["session"], drawn.sessions), _is_in(rows["slice"], drawn.slices)
    asked = drawn_session & drawn_slice
    away = (drawn_session | _is_in(rows["session"], held.sessions)) & ~asked
    if "touches" in rows.column_names:
        away |= touching(rows["touches"], held.sessions | drawn.sessions) & ~asked
    waits = _is_in(rows["slice"], drawn.waiting) & ~away & ~asked
    dropped["of a held-out session"] += int(away.sum())
    dropped["waiting for more of its slice"] += int(waits.sum())
    measured, learnt = (chooser.order[mask[chooser.order]] for mask in (asked, ~(asked | away | waits)))
    holdout = chooser.unique(measured)
    clean = chooser.clear_of(np.concatenate([old, signatures(measured)]), learnt)
    dropped["like a held-out row"] += len(learnt) - len(clean)
    return Selection(chooser.unique(clean), holdout, +dropped)


class _Chooser:
    """Rows by number, and the order in which they are looked at: of those that say the same, the latest stays."""

    def __init__(self, rows: pa.Table, signatures: Signatures, threshold: float) -> None:
        import pyarrow.compute as pc

        self._ids = rows["row_id"].combine_chunks()
        self._prompts, self._targets = _codes(rows["prompt"]), _codes(rows["target"])
        self._bands = _matrix(rows["bands"])
        self._signatures, self._threshold = signatures, threshold
        latest = [("time", "descending"), ("row_id", "ascending")]
        self.order: Places = pc.sort_indices(rows.select(["time", "row_id"]), latest).to_numpy().astype(np.int64)
        self.dropped: Counter[str] = Counter()

    def clear_of(self, held: NDArray[np.uint32], places: Places) -> Places:
        """The rows that are not near to a held-out one."""
        if not held.size:
            return places
        held = np.unique(held, axis=0)
        keys = bands(held, self._threshold)
        meets = np.zeros(len(places), dtype=bool)
        for band in range(keys.shape[1]):
            meets |= among(self._bands[places, band], np.unique(keys[:, band]))
        asked = np.flatnonzero(meets)
        near = asked[~clear(self._signatures(places[asked]), held, self._threshold)]
        return np.delete(places, near)

    def unique(self, places: Places) -> pa.Table:
        """One row for each prompt, the first of `places`, with the ids of those that it stands for.

        Of several targets for one prompt the most frequent stays, among equals the first. A prompt that is nearly
        another one is left out only if the target is the same: `a table for 5` beside `a table for 6` is worth a look.
        """
        prompts, targets = self._prompts[places], self._targets[places]
        pairs, first, pair_of, counts = np.unique(
            prompts << 32 | targets, return_index=True, return_inverse=True, return_counts=True
        )
        best = np.lexsort((first, -counts, pairs >> 32))  # by prompt, the most frequent target first
        winners = best[np.unique(pairs[best] >> 32, return_index=True)[1]]
        met = np.unique(prompts, return_index=True)[1]
        winners = winners[np.argsort(met)]  # in the order in which their prompts are first met
        self.dropped["with a conflicting target"] += len(places) - int(counts[winners].sum())

        heads = places[first[winners]]
        stays = distinct(
            self._bands[heads], self._targets[heads], lambda asked: self._signatures(heads[asked]), self._threshold
        )
        self.dropped["nearly a duplicate"] += int(counts[winners[~stays]].sum())
        kept = winners[stays]
        self.dropped["duplicate"] += int((counts[kept] - 1).sum())
        group = np.full(len(pairs), -1)
        group[kept] = np.arange(len(kept))
        return self._table(places[first[kept]], places, group[pair_of])

    def _table(self, heads: Places, places: Places, group: NDArray[np.int64]) -> pa.Table:
        """Heads with the sorted ids of their groups; `group` says of each place which head it belongs to, -1: none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        members = pa.table({"group": group[group >= 0], "id": self._ids.take(pa.array(places[group >= 0]))})
        members = members.take(pc.sort_indices(members, [("group", "ascending"), ("id", "ascending")]))
        ends = np.concatenate([[0], np.cumsum(np.bincount(members["group"].to_numpy(), minlength=len(heads)))])
        ids = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), members["id"].combine_chunks())
        return pa.table({"place": pa.array(heads, pa.int64()), "record_ids": ids})


def _is_in(column: Any, values: Iterable[str]) -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string())).to_numpy()


def touching(lists: Any, values: Iterable[str]) -> NDArray[np.bool_]:
    """Which of the lists (None: an empty one) have one of the values in them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    found = np.zeros(len(whole), dtype=bool)
    if pa.types.is_null(whole.type):  # of a column in which nobody found anything, some forget the type
        return found
    hits = pc.is_in(pc.list_flatten(whole), value_set=pa.array(sorted(values), pa.string()))
    found[pc.list_parent_indices(whole).filter(hits).to_numpy()] = True
    return found


def _codes(column: Any) -> NDArray[np.int64]:
    """A number for each different value."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)


def _matrix(column: Any) -> Bands:
    """Keys out of their bytes, without a copy."""
    whole = column.combine_chunks()
    width = whole.type.byte_width // 8
    if not len(whole):
        return np.empty((0, width), dtype=np.uint64)
    keys = np.frombuffer(whole.buffers()[1], dtype=np.uint64).reshape(-1, width)
    return keys[whole.offset : whole.offset + len(whole)]
