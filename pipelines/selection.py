"""Which rows are learnt, which are measured on, and which are left out. Plain functions on hashes and signatures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.duplicates import Index, Signature
from pipelines.holdout import Draw, Held


@dataclass(frozen=True)
class Light:
    """What the choice between rows needs to know of one."""

    row_id: str
    time: float
    session: str
    slice: str
    prompt: str
    """Digest of the conversation and the tools offered, white space aside."""
    target: str
    """Digest of the answer and the tools offered."""
    signature: Signature


@dataclass
class Selection:
    """Row ids to keep, each with the ids of all records that it stands for."""

    train: dict[str, list[str]] = field(default_factory=dict)
    holdout: dict[str, list[str]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def select(rows: Iterable[Light], held: Held, drawn: Draw, old: Iterable[Signature], threshold: float) -> Selection:
    """Which rows are kept, and where. Pure, and the same for any order of rows.

    `old` are the signatures of the rows that were held out before.
    """
    out = Selection()
    asked, learnt = [], []
    away = held.sessions | drawn.sessions
    # The latest first: of rows that say the same, the latest stays.
    for row in sorted(rows, key=lambda row: (-row.time, row.row_id)):
        if row.session in drawn.sessions and row.slice in drawn.slices:
            asked.append(row)
        elif row.session in away:
            out.dropped["of a held-out session"] += 1
        elif row.slice in drawn.waiting:
            out.dropped["waiting for more of its slice"] += 1
        else:
            learnt.append(row)
    out.holdout = _unique(asked, threshold, out.dropped)
    near = Index(threshold)
    for one in [*old, *(row.signature for row in asked)]:
        near.add(None, one)
    clean = [row for row in learnt if not near.find(row.signature)]
    out.dropped["like a held-out row"] += len(learnt) - len(clean)
    out.train = _unique(clean, threshold, out.dropped)
    out.dropped = +out.dropped
    return out


def _unique(rows: list[Light], threshold: float, dropped: Counter[str]) -> dict[str, list[str]]:
    """One row for each prompt, the latest first, with the ids of those that it stands for.

    Of several targets for one prompt the most frequent stays, among equals the latest. A prompt that is nearly
    another one is left out only if the target is the same: `a table for 5` beside `a table for 6` is worth a look.
    """
    by_prompt: dict[str, list[Light]] = defaultdict(list)
    for row in rows:
        by_prompt[row.prompt].append(row)
    kept: dict[str, list[str]] = {}
    index = Index(threshold)
    for same in by_prompt.values():
        # most_common keeps the order of first meeting among equals, and the latest is met first.
        winner = Counter(row.target for row in same).most_common(1)[0][0]
        agreeing = [row for row in same if row.target == winner]
        dropped["with a conflicting target"] += len(same) - len(agreeing)
        first = agreeing[0]
        if winner in index.find(first.signature):
            dropped["nearly a duplicate"] += len(agreeing)
            continue
        dropped["duplicate"] += len(agreeing) - 1
        index.add(winner, first.signature)
        kept[first.row_id] = sorted(row.row_id for row in agreeing)
    return kept
