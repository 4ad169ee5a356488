"""Near duplicates by MinHash and locality-sensitive hashing: plain NumPy on one row, one dictionary look-up per band.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3. Two texts are compared by the Jaccard similarity of their character 5-grams, estimated from 128
hash minima (standard error at most 0.044). A signature takes 512 bytes, so a million rows are compared in one process.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shingles = NDArray[np.uint64]
"""Hashes of a text's character 5-grams, sorted, each once."""
Signature = NDArray[np.uint32]
"""`HASHES` minima."""

HASHES = 128
WIDTH = 5


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finalizer: spreads close inputs over all 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# Multiply-shift hashing (Dietzfelbinger): odd 64-bit factors, the upper 32 bits of the product.
_FACTORS = _mix(np.arange(1, HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)
_POWERS = np.cumprod(np.full(WIDTH, 0x100000001B3, dtype=np.uint64))


def normalised(text: str) -> str:
    """What is left when case, punctuation, white space and Unicode's spellings do not count."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower()))


def shingles(text: str) -> Shingles:
    """A text's 5-grams; a shorter text is padded, so every text has at least one."""
    text = f" {normalised(text)} ".ljust(WIDTH)
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    count = len(codes) - WIDTH + 1
    return np.unique(_mix(sum(codes[place : place + count] * _POWERS[place] for place in range(WIDTH))))


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
    grams = shingles(text)
    if ignored is not None and ignored.size:
        own = np.setdiff1d(grams, ignored, assume_unique=True)
        grams = own if own.size else grams
    return ((grams[:, None] * _FACTORS) >> np.uint64(32)).min(axis=0).astype(np.uint32)


def similarity(one: Signature, other: Signature) -> float:
    """Estimated Jaccard similarity."""
    return float(np.mean(one == other))


class Index:
    """Finds the signatures that are at least `threshold` similar to a given one."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._rows = _band_rows(threshold)
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        self._keys: list[Any] = []
        self._signatures = np.empty((256, HASHES), dtype=np.uint32)

    def add(self, key: Any, one: Signature) -> None:
        place = len(self._keys)
        if place == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[place] = one
        self._keys.append(key)
        for band in self._bands(one):
            self._buckets.setdefault(band, []).append(place)

    def find(self, one: Signature) -> list[Any]:
        """Keys of similar signatures, in the order in which they were added."""
        met = sorted({place for band in self._bands(one) for place in self._buckets.get(band, ())})
        if not met:
            return []
        alike = (self._signatures[met] == one).mean(axis=1) >= self._threshold
        return [self._keys[place] for place, close in zip(met, alike, strict=True) if close]

    def _bands(self, one: Signature) -> list[tuple[int, bytes]]:
        size = self._rows
        return [(start, one[start : start + size].tobytes()) for start in range(0, HASHES - size + 1, size)]


def _band_rows(threshold: float) -> int:
    """Most rows in a band (fewest false alarms) with which a pair at the threshold is met in 99 of 100 cases."""
    fitting = [rows for rows in range(1, 33) if 1 - (1 - threshold**rows) ** (HASHES // rows) >= 0.99]
    return max(fitting, default=1)
