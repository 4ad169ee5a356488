"""Rows against forgetting: a part of what the model could already do, trained on again beside the new.

Where they come from is the recipe's choice (`ReplaySettings.source`):

    seed      the generator that the seed model was pre-trained on
    earlier   rows that earlier datasets of the alias had and the window no longer reaches
    a path    JSONL with `messages` (the last one the assistant's) and `tools`
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cluster import decisions
from pipelines.artifacts import Row, read_rows
from pipelines.recipe import ReplaySettings
from pipelines.steps import digest
from pipelines.targets import Unusable, slice_of, target

Source = dict[str, str]
"""What identifies the source: it goes into the hash that addresses the dataset."""


def source_of(state: Path, alias: str, settings: ReplaySettings) -> Source | None:
    """Which source applies now; None for no replay. Raises `ValueError` for a file that is not there."""
    if settings.share == 0:
        return None
    wanted = settings.source
    if wanted is None:
        known = decisions.fold(decisions.read(state)).aliases.get(alias)
        wanted = "seed" if known and known.base == "seed" else "earlier"
    match wanted:
        case "seed":
            return {"from": "seed"}
        case "earlier":
            earlier = _champions_dataset(state, alias)
            return {"from": "earlier", "dataset": earlier} if earlier else None
    path = Path(wanted)
    if not path.is_file():
        raise ValueError(f"curation.replay.source: there is no file {wanted}; give `seed`, `earlier` or a JSONL file")
    return {"from": "file", "path": str(path.absolute()), "digest": hashlib.sha256(path.read_bytes()).hexdigest()}


def replay(state: Path, source: Source, count: int, known: set[str], seed: int) -> list[Row]:
    """At most `count` rows, always the same ones. `known`: request ids that the dataset holds already."""
    match source["from"]:
        case "seed":
            from pipelines.seed import corpus

            return [_row(f"replay-{place}", row) for place, row in enumerate(corpus.replay(count, seed))]
        case "earlier":
            rows = [
                row
                for row in read_rows(state / "datasets" / source["dataset"] / "train")
                if not known & set(row.record_ids)
            ]
            return _pick([Row(**{**vars(row), "origin": "replay"}) for row in rows], count, seed)
        case _:
            return _pick(_read(Path(source["path"])), count, seed)


def _read(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(_row(f"replay-{number}", json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, IndexError, Unusable) as error:
            raise ValueError(
                f"{path}, line {number}: {error}; each line is a JSON object with `messages`, "
                "whose last one is the assistant's, and `tools`"
            ) from None
    return rows


def _row(name: str, row: dict[str, Any]) -> Row:
    tools = row.get("tools") or []
    *messages, last = row["messages"]
    answer = target(last, tools)
    return Row(name, [*messages, answer], tools, [], "replay", name, slice_of(answer))


def _pick(rows: list[Row], count: int, seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: digest([seed, row.row_id]))[:count]


def _champions_dataset(state: Path, alias: str) -> str | None:
    known = decisions.fold(decisions.read(state)).aliases.get(alias)
    if known is None or known.champion.endswith("@0"):
        return None
    name, _, number = known.champion.partition("@")
    lineage = json.loads((state / "models" / name / number / "version.json").read_text()).get("lineage")
    folder = Path(lineage["dataset"]).name if lineage else None
    return folder if folder and (state / "datasets" / folder).is_dir() else None
