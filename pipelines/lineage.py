"""Where a version comes from, and where a record went: from an answer back to rows, and from a row to versions.

Read from the files under state alone, so it works while nothing runs:

    models/NAME/N/version.json  ->  datasets/FOLDER/{manifest.json, train/*.parquet, holdout/*.parquet}  ->  record ids
    rollout/NNNNNNNN.json       ->  verdicts, and when a version served
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.decisions import fold, read
from cluster.records import Decision, Version
from cluster.registry import Registry
from cluster.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console


def describe(settings: Settings, version: str) -> dict[str, Any]:
    """Everything that made a version what it is, and its chain of parents, nearest first.

    Raises `ValueError` if there is no such version. The chain ends where a parent's folder has been deleted.
    """
    registry = Registry(settings)
    decisions = read(settings.state)
    chain = [registry.get(version)]
    known = {version.id: version for name in registry.names() for version in registry.versions(name)}
    while (parent := known.get(chain[-1].parent or "")) is not None:
        chain.append(parent)
    first, *parents = [_one(version, decisions) for version in chain]
    return {**first, "history": _history(settings.state, chain[0]), "parents": parents}


def _history(state: Path, version: Version) -> list[dict[str, float]]:
    """Loss and speed of the training that made a version, as its cycle kept them; empty once that was deleted."""
    if version.lineage is None:
        return []
    try:
        steps = json.loads((state / "runs" / version.lineage.cycle / "run.json").read_text())["steps"]
        history: list[dict[str, float]] = json.loads((state / steps["train"]["folder"] / "manifest.json").read_text())[
            "history"
        ]
    except (OSError, KeyError):
        return []
    return history


_TOLD = {"sequence", "time", "action", "actor", "reason", "share", "shadow", "evidence"}
"""What a version's story says of each decision."""


def _one(version: Version, decisions: list[Decision]) -> dict[str, Any]:
    about = [decision for decision in decisions if decision.version == version.id]
    verdicts = [decision.verdict for decision in about if decision.verdict is not None]
    return {
        "version": version.id,
        "base": version.base,
        "form": version.form,
        "rank": version.rank,
        "parent": version.parent,
        "created": version.created,
        "status": _status(version.id, decisions),
        "lineage": version.lineage.model_dump(mode="json") if version.lineage else None,
        "verdict": verdicts[-1].model_dump(mode="json") if verdicts else None,
        "decisions": [decision.model_dump(mode="json", include=_TOLD) for decision in about],
    }


def _status(version: str, decisions: list[Decision]) -> str:
    """`champion`, `canary`, `staged`, `former` (served once), `rolled back` (a canary), `rejected`, or `unused`."""
    for alias in fold(decisions).aliases.values():
        if version == alias.champion:
            return "champion"
        if version == alias.staged:
            return "canary" if alias.canary else "staged"
    actions = [decision.action for decision in decisions if decision.version == version]
    if any(action in ("create", "promote", "rollback") for action in actions):
        return "former"
    if actions[-2:] == ["canary", "reject"]:
        return "rolled back"
    return "rejected" if "reject" in actions else "unused"


def seen_by(settings: Settings, request_id: str) -> dict[str, Any]:
    """The datasets that hold a record of the log, and the versions that were trained or judged on it.

    Versions made from a version that saw the record are in `descendants`: their weights started from its weights.
    """
    datasets = [held for folder in _datasets(settings.state) if (held := _held(folder, request_id))["rows"]]
    registry = Registry(settings)
    versions = [version for name in registry.names() for version in registry.versions(name)]
    trained = {held["dataset"] for held in datasets if "train" in held["splits"]}
    judged = {held["dataset"] for held in datasets if "holdout" in held["splits"]}
    on = {version.id: _dataset_of(version) for version in versions}
    saw = [name for name, dataset in on.items() if dataset in trained]
    descendants: list[str] = []
    for version in sorted(versions, key=lambda version: version.created):
        if version.id not in saw and version.parent in (*saw, *descendants):
            descendants.append(version.id)
    return {
        "record": request_id,
        "datasets": datasets,
        "trained": saw,
        "judged": [name for name, dataset in on.items() if dataset in judged],
        "descendants": descendants,
    }


def _dataset_of(version: Version) -> str | None:
    return Path(version.lineage.dataset).name if version.lineage else None


def _datasets(state: Path) -> list[Path]:
    """Finished datasets; a folder whose name starts with a dot is still being written."""
    folders = sorted((state / "datasets").glob("[!.]*"))
    return [folder for folder in folders if (folder / "train").is_dir() and (folder / "manifest.json").is_file()]


def _held(folder: Path, request_id: str) -> dict[str, Any]:
    rows = {split: _rows(folder / split, request_id) for split in ("train", "holdout")}
    return {
        "dataset": folder.name,
        "digest": json.loads((folder / "manifest.json").read_text()).get("digest"),
        "splits": [split for split, found in rows.items() if found],
        "rows": [row for found in rows.values() for row in found],
    }


def _rows(folder: Path, request_id: str) -> list[str]:
    """Ids of the rows that came from a record; reads two columns and leaves the text where it is."""
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    found: list[str] = []
    for file in sorted(folder.glob("*.parquet")):
        table = parquet.read_table(file, columns=["row_id", "record_ids"])
        for batch in table.to_batches():
            ids = batch.column("record_ids")
            hits = compute.equal(compute.list_flatten(ids), request_id)
            at = compute.filter(compute.list_parent_indices(ids), hits)
            found += compute.take(batch.column("row_id"), compute.unique(at)).to_pylist()
    return found


def render(answer: dict[str, Any], console: Console) -> None:
    """Print what `describe` or `seen_by` found."""
    if "record" in answer:
        _render_record(answer, console)
    else:
        _render_version(answer, console)


def _render_version(answer: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=answer["version"], title_justify="left", show_header=False, box=None)
    for name, value in _facts(answer).items():
        table.add_row(name, Text(value))  # as it is: a reason may hold brackets
    console.print(table)
    for parent in answer["parents"]:
        line = f"made from {parent['version']} ({parent['status']}, {parent['form']} of {parent['base']})"
        console.print(line, markup=False, highlight=False)


def _facts(answer: dict[str, Any]) -> dict[str, str]:
    lineage, verdict = answer["lineage"] or {}, answer["verdict"]
    rank = f", rank {answer['rank']}" if answer["rank"] else ""
    facts = {
        "status": answer["status"],
        "base": f"{answer['base']} ({answer['form']}{rank})",
        "parent": answer["parent"],
        "created": when(answer["created"]),
    }
    if lineage:
        facts |= {
            "rows": f"{lineage['rows']} from the log, {lineage['replay_rows']} of replay"
            if lineage["table_version"] is not None
            else f"{lineage['rows']} documents",
            "table version": "" if lineage["table_version"] is None else str(lineage["table_version"]),
            "dataset": f"{lineage['dataset']} (digest {lineage['dataset_digest']})",
            "recipe": f"{lineage['recipe']} (digest {lineage['recipe_digest']})",
            "code": lineage["code_revision"],
            "cycle": lineage["cycle"],
            "metrics": ", ".join(f"{name} {value:.4g}" for name, value in lineage["metrics"].items()),
        }
    if verdict:
        facts["verdict"] = (
            f"{'accepted' if verdict['accepted'] else 'rejected'}: {verdict['candidate_score']:.3f} against "
            f"{verdict['champion_score']:.3f} of {verdict['champion']} on {verdict['rows']} rows "
            f"(gain {verdict['gain']:+.3f}, at least {verdict['gain_low']:+.3f}); {'; '.join(verdict['reasons'])}"
        )
    for decision in answer["decisions"]:
        facts[f"decision {decision['sequence']}"] = (
            f"{decision['action']} by {decision['actor']}, {when(decision['time'])}: {decision['reason']}"
        )
    return {name: value for name, value in facts.items() if value}


def _render_record(answer: dict[str, Any], console: Console) -> None:
    if not answer["datasets"]:
        console.print(f"no dataset holds {answer['record']}")
        return
    for held in answer["datasets"]:
        console.print(f"{held['dataset']} holds it for {' and '.join(held['splits'])}, row {', '.join(held['rows'])}")
    for how in ("trained", "judged", "descendants"):
        said = {"trained": "trained on it", "judged": "judged on it", "descendants": "made from one of those"}[how]
        console.print(f"{said}: {', '.join(answer[how]) or 'no version'}")


def when(seconds: float) -> str:
    """Unix seconds as a date, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
