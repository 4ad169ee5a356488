"""Ours against a peer, in turns within one run: figures are medians of paired ratios, because machines are shared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence

from benchmarks.machine import describe

ROUNDS = 7


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, between two neighbours if it falls between them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def paired(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Median over rounds of ours / peer: what slows a whole round down slows both sides of its ratio."""
    return statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))


def compare(title: str, ours: Callable[[], float], peer: Callable[[], float], rounds: int = ROUNDS) -> float:
    """Run both alternately, after a round that does not count; print their medians, and the ratio that is returned.

    Each callable returns its own measure of one round: seconds, milliseconds, whatever the title says.
    """
    ours(), peer()
    mine, theirs = zip(*((ours(), peer()) for _ in range(rounds)), strict=True)
    ratio = paired(mine, theirs)
    medians = f"ours {statistics.median(mine):9.3f}   peer {statistics.median(theirs):9.3f}"
    print(f"{title:<52} {medians}   ours / peer {ratio:6.2f}", flush=True)
    return ratio


def conclude(runs: int, **figures: float | None) -> None:
    """The last line that a benchmark prints: its figures as JSON, how often it measured, and on what."""
    rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
    print(json.dumps({**rounded, "runs": runs, "machine": describe()}), flush=True)
