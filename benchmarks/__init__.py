"""Ours against a peer, in turns within one run: figures are medians and their ratio, because machines are shared."""

from __future__ import annotations

import statistics
from collections.abc import Callable

ROUNDS = 7


def compare(title: str, ours: Callable[[], float], peer: Callable[[], float], rounds: int = ROUNDS) -> float:
    """Run both alternately, after a round that does not count, print their medians, and return ours / peer's.

    Each callable returns its own measure of one round: seconds, milliseconds, whatever the title says.
    """
    ours(), peer()
    pairs = [(ours(), peer()) for _ in range(rounds)]
    mine, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = mine / theirs
    print(f"{title:<52} ours {mine:9.3f}   peer {theirs:9.3f}   ours / peer {ratio:6.2f}", flush=True)
    return ratio
