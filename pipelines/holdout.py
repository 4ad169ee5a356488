"""The holdout: sessions that are only measured on. Drawn once for each slice, then frozen.

    datasets/holdout-ALIAS/00000.json    the slices that joined, their sessions and their rows
    datasets/holdout-ALIAS/00001.json    a tool that came later

Files are only ever added, each created exclusively. A session in one of them is never trained on again, whatever it
says later; a slice in one of them draws no more: versions are compared on the same questions for as long as it lives.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import durable
from pipelines.recipe import HoldoutSettings
from pipelines.steps import digest


@dataclass(frozen=True)
class Held:
    """What the files hold together."""

    slices: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    rows: tuple[dict[str, Any], ...] = ()
    """Rows of a dataset (`pipelines.artifacts.Row`), with messages and tools as JSON text."""

    @property
    def digest(self) -> str:
        return digest(sorted(digest(row) for row in self.rows))


@dataclass(frozen=True)
class Draw:
    """Which sessions are held out from now on, and which slices have joined by that."""

    slices: frozenset[str] = frozenset()
    sessions: frozenset[str] = frozenset()
    waiting: dict[str, int] = field(default_factory=dict)
    """Slices with too few usable rows yet, and how many they have. They are not trained on either."""


def draw(rows: Iterable[tuple[str, str]], held: Held, settings: HoldoutSettings, salt: str) -> Draw:
    """Choose sessions from usable rows, given as pairs of session and slice. Pure, and the same for any order of rows.

    Sessions are taken in the order of a keyed hash, which is random to whatever the sessions are about.
    """
    by_slice: dict[str, Counter[str]] = defaultdict(Counter)
    for session, name in rows:
        if name not in held.slices and session not in held.sessions:
            by_slice[name][session] += 1
    sizes = {name: counts.total() for name, counts in by_slice.items()}
    # One session cannot be on both sides, so a slice needs two at the least.
    joining = sorted(name for name, size in sizes.items() if size >= 4 * settings.min_rows and len(by_slice[name]) > 1)
    share = max(0, settings.max_rows - len(held.rows)) // max(1, len(joining))
    taken: set[str] = set()
    joined = set()
    for name in joining:
        counts = by_slice[name]
        quota = max(settings.min_rows, min(round(settings.fraction * sizes[name]), share))
        have = sum(counts[session] for session in taken)
        for session in sorted(counts, key=lambda session: hashlib.sha256(f"{salt}/{session}".encode()).digest()):
            # A session that would take more than half of a slice leaves too little to learn from.
            if have < quota and session not in taken and have + counts[session] <= sizes[name] // 2:
                taken.add(session)
                have += counts[session]
        if have:
            joined.add(name)
    waiting = {name: size for name, size in sorted(sizes.items()) if name not in joined}
    return Draw(frozenset(joined), frozenset(taken), waiting)


def read(state: Path, alias: str) -> Held:
    """The holdout of an alias as it stands."""
    files = [json.loads(path.read_text()) for path in sorted(_folder(state, alias).glob("[0-9]*.json"))]
    return Held(
        slices=frozenset(name for file in files for name in file["slices"]),
        sessions=frozenset(session for file in files for session in file["sessions"]),
        rows=tuple(row for file in files for row in file["rows"]),
    )


def append(state: Path, alias: str, drawn: Draw, rows: list[dict[str, Any]]) -> Held:
    """Freeze a draw and its rows. Raises `FileExistsError` if another process has frozen one in between."""
    folder = _folder(state, alias)
    durable.make_folder(folder)
    path = folder / f"{len(list(folder.glob('[0-9]*.json'))):05}.json"
    content = {"slices": sorted(drawn.slices), "sessions": sorted(drawn.sessions), "rows": rows}
    durable.create(path, json.dumps(content, ensure_ascii=False, indent=0).encode(errors="surrogatepass"))
    return read(state, alias)


def _folder(state: Path, alias: str) -> Path:
    return state / "datasets" / f"holdout-{alias}"
