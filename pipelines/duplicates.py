"""Near duplicates by MinHash and locality-sensitive hashing: texts hashed by the batch, minima found in Rust (rensa).

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3. Two texts are compared by the Jaccard similarity of their character 5-grams, estimated from 128
hash minima (standard error at most 0.044). A signature takes 512 bytes; what meets another row by a band of them has
its signature looked at, all others only their bands' keys: 128 bytes a row at the default threshold.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Shingles = NDArray[np.uint64]
"""Hashes of a text's character 5-grams, sorted, each once."""
Signature = NDArray[np.uint32]
"""`HASHES` minima."""

Bands = NDArray[np.uint64]
"""(rows, bands): two rows that share a key meet; a key's place, which band it is of, counts."""

HASHES = 128
WIDTH = 5
SEED = 1
BLOCK_ROWS = 20_000
"""Rows that are compared at a time."""
BATCH_CHARACTERS = 20_000
"""Of the texts that are hashed together: few enough for the processor's caches, whatever a text's length."""


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer: spreads close inputs over all 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_POWERS = np.cumprod(np.full(WIDTH, 0x100000001B3, dtype=np.uint64))
_ODD = np.uint64(0x9E3779B97F4A7C15)


def normalised(text: str) -> str:
    """What is left when case, punctuation, white space and Unicode's spellings do not count."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()))


def shingles(text: str) -> Shingles:
    """A text's 5-grams; a shorter text is padded, so every text has at least one."""
    return np.unique(_grams([text])[0])


def _grams(texts: Sequence[str]) -> tuple[Shingles, NDArray[np.int64]]:
    """Hashes of the 5-grams of all texts behind one another, in order, and how many each text has."""
    padded = [f" {normalised(text)} ".ljust(WIDTH) for text in texts]
    counts = np.fromiter(map(len, padded), np.int64, len(padded)) - (WIDTH - 1)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    size = len(codes) - WIDTH + 1
    grams = _mix(sum(codes[place : place + size] * _POWERS[place] for place in range(WIDTH)))
    within = np.ones(size, dtype=bool)  # not those that begin in one text and end in the next
    borders = np.cumsum(counts + (WIDTH - 1))[:-1]
    for before in range(1, WIDTH):
        within[borders - before] = False
    return grams[within], counts


def common(texts: Iterable[str]) -> Shingles:
    """5-grams in more than half of the texts: an application's own words around what its users say.

    Left in, they would make all prompts of one template alike. None where there are too few texts to tell.
    """
    rows = [shingles(text) for text in texts]
    if len(rows) < 20:
        return np.empty(0, dtype=np.uint64)
    values, counts = np.unique(np.concatenate(rows), return_counts=True)
    return values[counts > len(rows) / 2]


def signature(text: str, ignored: Shingles | None = None) -> Signature:
    """128 minima over the text's 5-grams, less the ignored ones (unless the text holds nothing else)."""
    return signatures([text], ignored)[0]


def signatures(texts: Sequence[str], ignored: Shingles | None = None) -> NDArray[np.uint32]:
    """`signature` of each text: (texts, `HASHES`)."""
    made = [_minima(*_own(*_grams(batch), ignored)) for batch in _batches(texts)]
    return np.concatenate(made) if made else np.empty((0, HASHES), dtype=np.uint32)


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    first, size = 0, 0
    for place, text in enumerate(texts):
        if size > BATCH_CHARACTERS:
            yield texts[first:place]
            first, size = place, 0
        size += len(text)
    if first < len(texts):
        yield texts[first:]


def _own(grams: Shingles, counts: NDArray[np.int64], ignored: Shingles | None) -> tuple[Shingles, NDArray[np.int64]]:
    """The 5-grams of each text without the ignored ones, unless it holds nothing else."""
    if ignored is None or not ignored.size:
        return grams, counts
    own = ~among(grams, ignored)
    left = np.add.reduceat(own, np.cumsum(counts) - counts, dtype=np.int64)
    own |= np.repeat(left == 0, counts)
    return grams[own], np.where(left == 0, counts, left)


def _minima(grams: Shingles, counts: NDArray[np.int64]) -> NDArray[np.uint32]:
    from rensa import RMinHash

    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    rows = RMinHash.digest_matrix_from_flat_token_hashes(grams, ends, HASHES, SEED).to_rows()
    # From lists of numbers an array makes bytes in a third of NumPy's time.
    return np.frombuffer(b"".join(array("I", row) for row in rows), dtype=np.uint32).reshape(-1, HASHES)


def similarity(one: Signature, other: Signature) -> float:
    """Estimated Jaccard similarity."""
    return float(np.mean(one == other))


def bands(signatures: NDArray[np.uint32], threshold: float) -> Bands:
    """The keys by which rows meet that are `threshold` similar, of (rows, `HASHES`) minima."""
    size = _band_rows(threshold)
    count = HASHES // size
    minima = signatures[:, : count * size].reshape(-1, count, size).astype(np.uint64)
    keys = np.zeros(minima.shape[:2], dtype=np.uint64)
    for place in range(size):
        keys = _mix(keys ^ minima[:, :, place]) * _ODD
    return keys


def distinct(
    keys: Bands,
    groups: NDArray[np.int64],
    signatures: Callable[[NDArray[np.int64]], NDArray[np.uint32]],
    threshold: float,
) -> NDArray[np.bool_]:
    """Which rows stay if each goes that is near to an earlier one of its group that stays. Rows stand in order.

    `signatures` gives those of the rows asked for: of the few that meet another one.
    """
    keys = keys ^ _mix(groups.astype(np.uint64) + np.uint64(1))[:, None]
    meets = np.zeros(keys.shape, dtype=bool)
    for band in range(keys.shape[1]):
        meets[:, band] = _repeated(keys[:, band])
    asked = np.flatnonzero(meets.any(axis=1))
    minima = signatures(asked)
    stays = np.ones(len(keys), dtype=bool)
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, row in enumerate(asked):
        own = [buckets[band, int(keys[row, band])] for band in np.flatnonzero(meets[row])]
        met = list({other for bucket in own for other in bucket})
        if met and ((minima[met] == minima[place]).mean(axis=1) >= threshold).any():
            stays[row] = False
        else:
            for bucket in own:
                bucket.append(place)
    return stays


def near(
    minima: NDArray[np.uint32], held: NDArray[np.uint32], threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of a row and a held one that are near: their numbers, some rows' pairs at a time."""
    theirs = bands(held, threshold)
    for first in range(0, len(minima) if len(held) else 0, BLOCK_ROWS):
        block = minima[first : first + BLOCK_ROWS]
        keys = bands(block, threshold)
        met = np.unique(np.concatenate([_met(keys[:, band], theirs[:, band]) for band in range(keys.shape[1])]))
        row, other = np.divmod(met, len(held))
        close = (block[row] == held[other]).mean(axis=1) >= threshold
        yield first + row[close], other[close]


def _met(keys: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a key is one of theirs: its place times how many there are of theirs, plus the other's place."""
    order = np.argsort(theirs)
    first, last = (np.searchsorted(theirs[order], keys, side) for side in ("left", "right"))
    counts = last - first
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(keys)) * len(theirs), counts) + order[np.repeat(first, counts) + nth]


def clear(minima: NDArray[np.uint32], held: NDArray[np.uint32], threshold: float) -> NDArray[np.bool_]:
    """Which rows are near to none of the held."""
    away = np.ones(len(minima), dtype=bool)
    for rows, _ in near(minima, held, threshold):
        away[rows] = False
    return away


def among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the values are known; `known` is sorted, not empty, and a good deal shorter."""
    return known[np.searchsorted(known, values).clip(max=known.size - 1)] == values


def _repeated(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which values are there more than once."""
    order = np.argsort(values)
    same = values[order[1:]] == values[order[:-1]]
    repeated = np.zeros(len(values), dtype=bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def _band_rows(threshold: float) -> int:
    """Most rows in a band (fewest false alarms) with which a pair at the threshold is met in 99 of 100 cases."""
    fitting = [rows for rows in range(1, 33) if 1 - (1 - threshold**rows) ** (HASHES // rows) >= 0.99]
    return max(fitting, default=1)
