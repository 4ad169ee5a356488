"""What a memory is asked for, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Passage:
    """A piece of text that somebody once stored."""

    text: str
    source: str
    """Where it came from, as whoever stored it said."""
    score: float
    """How well it answers the query; only comparable within one answer."""


class Memory(Protocol):
    """Passages by principal: nobody finds another's."""

    async def search(self, principal: str, query: str, count: int) -> list[Passage]:
        """The best at most `count`, best first."""
        ...
