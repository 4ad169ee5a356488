from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster import decisions
from cluster.records import Decision
from pipelines.recipe import ReplaySettings
from pipelines.replay import replay, source_of


def decide(state: Path, base: str, champion: str = "assistant@0") -> None:
    for sequence, (action, version) in enumerate([("create", "assistant@0"), ("promote", champion)]):
        path = decisions.path(state, sequence)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"sequence": sequence, "time": 0, "action": action, "alias": "assistant", "version": version}
        path.write_text(Decision.model_validate({**facts, "base": base, "actor": "a", "reason": "r"}).model_dump_json())


def test_the_seed_model_is_kept_by_its_own_generator_and_others_by_nothing(tmp_path: Path) -> None:
    assert source_of(tmp_path, "assistant", ReplaySettings()) is None
    decide(tmp_path, "seed")
    assert source_of(tmp_path, "assistant", ReplaySettings()) == {"from": "seed"}
    assert source_of(tmp_path, "assistant", ReplaySettings(share=0)) is None
    decide(tmp_path / "other", "qwen")
    assert source_of(tmp_path / "other", "assistant", ReplaySettings()) is None


def test_rows_that_the_window_lost_come_back_from_the_champions_dataset(tmp_path: Path) -> None:
    decide(tmp_path, "qwen", "assistant@1")
    version = tmp_path / "models" / "assistant" / "1" / "version.json"
    version.parent.mkdir(parents=True)
    version.write_text(json.dumps({"lineage": {"dataset": "datasets/curate-1"}}))
    assert source_of(tmp_path, "assistant", ReplaySettings()) is None  # the dataset was deleted

    folder = tmp_path / "datasets" / "curate-1" / "train"
    folder.mkdir(parents=True)
    texts = {"messages": "[]", "tools": "[]", "options": "{}", "origin": "log", "session": "s", "slice": "play"}
    rows = [{**texts, "row_id": f"r{n}", "record_ids": [f"r{n}"]} for n in range(10)]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    source = source_of(tmp_path, "assistant", ReplaySettings())
    assert source == {"from": "earlier", "dataset": "curate-1"}
    again = replay(tmp_path, source, 5, {f"r{n}" for n in range(4)}, seed=0)
    assert len(again) == 5 and not {row.row_id for row in again} & {"r0", "r1", "r2", "r3"}
    assert {row.origin for row in again} == {"replay"} and again[0].record_ids == [again[0].row_id]
    assert again == replay(tmp_path, source, 5, {f"r{n}" for n in range(4)}, seed=0)


def test_the_seed_models_generator_gives_rows(tmp_path: Path) -> None:
    rows = replay(tmp_path, {"from": "seed"}, 20, set(), seed=0)
    assert len(rows) == 20 and all(row.messages[-1]["role"] == "assistant" for row in rows)
    assert rows == replay(tmp_path, {"from": "seed"}, 20, set(), seed=0)


def test_a_broken_line_of_a_replay_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n{"tools": []}\n'
    )
    source = source_of(tmp_path, "assistant", ReplaySettings(source=str(path)))
    assert source is not None
    with pytest.raises(ValueError, match=r"old\.jsonl, line 2: .*each line is a JSON object"):
        replay(tmp_path, source, 10, set(), seed=0)
    with pytest.raises(ValueError, match="there is no file nowhere"):
        source_of(tmp_path, "assistant", ReplaySettings(source="nowhere"))
