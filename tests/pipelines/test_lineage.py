from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from rich.console import Console

from cluster import durable
from cluster.decisions import path
from cluster.records import Decision, Lineage
from cluster.registry import Registry
from cluster.settings import Settings
from pipelines.lineage import describe, render, seen_by
from tests.cluster.test_registry import write_adapter
from tests.examples import verdict


def rows(folder: Path, *held: tuple[str, list[str]]) -> None:
    """Parquet as `curate` writes it: several files, several row groups."""
    folder.mkdir(parents=True)
    for n in range(0, len(held), 2):
        part = held[n : n + 2]
        columns = {
            "row_id": [row for row, _ in part],
            "record_ids": [ids for _, ids in part],
            "slice": ["s"] * len(part),
        }
        schema = arrow.schema(
            [("row_id", arrow.string()), ("record_ids", arrow.list_(arrow.string())), ("slice", arrow.string())]
        )
        parquet.write_table(arrow.table(columns, schema=schema), folder / f"{n:03}.parquet", row_group_size=1)


def dataset(state: Path, name: str, train: list[tuple[str, list[str]]], holdout: list[tuple[str, list[str]]]) -> None:
    rows(state / "datasets" / name / "train", *train)
    rows(state / "datasets" / name / "holdout", *holdout)
    (state / "datasets" / name / "manifest.json").write_text(json.dumps({"digest": f"digest of {name}"}))


def lineage(name: str) -> Lineage:
    return Lineage(
        cycle=f"cycle of {name}",
        rows=3,
        replay_rows=1,
        table_version=7,
        dataset=f"datasets/{name}",
        dataset_digest=f"digest of {name}",
        recipe="default.yaml",
        recipe_digest="r1",
        code_revision="abc123",
        metrics={"loss": 0.25},
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """assistant@1 learnt from curate-a and serves, @2 from curate-b, and was rejected, @3 is of @1."""
    settings = Settings(state=tmp_path / "state")
    dataset(
        settings.state,
        "curate-a",
        train=[("r1", ["req-1"]), ("r2", ["req-2", "req-3"]), ("r3", []), ("r4", ["req-4"])],
        holdout=[("h1", ["req-9"])],
    )
    dataset(settings.state, "curate-b", train=[("r5", ["req-5"]), ("r6", ["req-3"])], holdout=[("h1", ["req-9"])])
    dataset(settings.state, ".curate-c", train=[("r7", ["req-1"])], holdout=[])  # a dead cycle's unfinished work
    adapter = write_adapter(tmp_path / "adapter")
    registry = Registry(settings)
    registry.create_base("assistant", "seed")
    registry.create("assistant", "seed", "adapter", 8, "assistant@0", lineage("curate-a"), adapter)
    registry.create("assistant", "seed", "adapter", 8, "assistant@1", lineage("curate-b"), adapter)
    for parent in ("assistant@1", None, None):
        registry.create("assistant", "seed", "adapter", 8, parent, None, adapter)
    decisions = [("create", 0), ("stage", 1), ("promote", 1), ("stage", 2), ("reject", 2)]
    decisions += [("stage", 4), ("canary", 4), ("reject", 4), ("stage", 5), ("canary", 5)]
    durable.make_folder(settings.state / "rollout")
    for sequence, (action, number) in enumerate(decisions):
        said = verdict(accepted=action == "promote", candidate=f"assistant@{number}")
        decision = Decision(
            sequence=sequence,
            time=float(sequence),
            action=action,
            alias="assistant",
            version=f"assistant@{number}",
            base="seed",
            actor="wheel",
            reason="the gate [said] so",
            verdict=said if action in ("promote", "reject") else None,
        )
        durable.create(path(settings.state, sequence), decision.model_dump_json().encode())
    return settings


def test_a_version_tells_everything_that_made_it(settings: Settings) -> None:
    answer = describe(settings, "assistant@1")
    assert answer["status"] == "champion"
    assert answer["parent"] == "assistant@0"
    assert answer["lineage"] == lineage("curate-a").model_dump(mode="json")
    assert answer["verdict"]["accepted"] is True
    assert [decision["action"] for decision in answer["decisions"]] == ["stage", "promote"]
    json.dumps(answer)


def test_the_chain_of_parents_leads_to_the_base(settings: Settings) -> None:
    answer = describe(settings, "assistant@2")
    assert [(parent["version"], parent["status"]) for parent in answer["parents"]] == [
        ("assistant@1", "champion"),
        ("assistant@0", "former"),
    ]
    assert answer["status"] == "rejected"
    assert answer["verdict"]["accepted"] is False
    assert describe(settings, "assistant@3")["status"] == "unused"


def test_a_canary_is_a_status_of_its_own_and_so_is_its_failure(settings: Settings) -> None:
    assert describe(settings, "assistant@4")["status"] == "rolled back"
    assert describe(settings, "assistant@5")["status"] == "canary"


def test_an_unknown_version_is_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match="no version assistant@8"):
        describe(settings, "assistant@8")


def test_a_record_is_followed_to_datasets_and_versions(settings: Settings) -> None:
    answer = seen_by(settings, "req-3")
    assert [(held["dataset"], held["rows"], held["splits"]) for held in answer["datasets"]] == [
        ("curate-a", ["r2"], ["train"]),
        ("curate-b", ["r6"], ["train"]),
    ]
    assert answer["datasets"][0]["digest"] == "digest of curate-a"
    assert answer["trained"] == ["assistant@1", "assistant@2"]
    assert answer["descendants"] == ["assistant@3"]
    assert answer["judged"] == []
    json.dumps(answer)


def test_a_record_of_the_holdout_judged_but_taught_nobody(settings: Settings) -> None:
    answer = seen_by(settings, "req-9")
    assert {row for held in answer["datasets"] for row in held["rows"]} == {"h1"}
    assert answer["judged"] == ["assistant@1", "assistant@2"]
    assert answer["trained"] == answer["descendants"] == []


@pytest.mark.parametrize(("record", "row"), [("req-1", "r1"), ("req-2", "r2"), ("req-4", "r4")])
def test_every_row_is_found_wherever_it_lies(settings: Settings, record: str, row: str) -> None:
    (held,) = seen_by(settings, record)["datasets"]
    assert held["rows"] == [row]


def test_a_record_that_nobody_saw_is_said_so(settings: Settings) -> None:
    assert seen_by(settings, "req-none")["datasets"] == []
    assert "no dataset holds req-none" in shown(seen_by(settings, "req-none"))
    assert seen_by(Settings(state=settings.state / "empty"), "req-1")["datasets"] == []


def shown(answer: dict) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    render(answer, console)
    return console.export_text()


def test_the_terminal_shows_where_a_version_comes_from(settings: Settings) -> None:
    text = shown(describe(settings, "assistant@2"))
    for told in ("rejected", "3 from the log, 1 of replay", "curate-b", "digest of curate-b", "abc123", "loss 0.25"):
        assert told in text
    assert "gain +0.400, at least +0.300" in text
    assert "the gate [said] so" in text
    assert "made from assistant@1 (champion, adapter of seed)" in text
    assert "trained on it: assistant@1, assistant@2" in shown(seen_by(settings, "req-3"))
