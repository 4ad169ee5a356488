"""What `sql` wants of a database, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Refused(Exception):
    """One sentence about what was asked."""


@dataclass(frozen=True)
class Rows:
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    cut: bool
    """Whether there are more."""


class Reader(Protocol):
    """Reads and nothing else. Each call has a connection of its own, and may be made in any thread."""

    @property
    def dialect(self) -> str:
        """For a model: whose SQL, and how a parameter is written."""
        ...

    def read(self, query: str, parameters: list[Any], most_rows: int, timeout_s: float) -> Rows:
        """Raises `Refused` for what is wrong with the query, or takes too long."""
        ...

    def described(self) -> dict[str, list[str]]:
        """Columns of each table that may be read. Raises `ValueError`, one sentence, where there is no database, or one
        that would let more be done than reading."""
        ...
