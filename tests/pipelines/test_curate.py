from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.records import Entry
from cluster.settings import Settings
from pipelines import holdout
from pipelines.artifacts import Dataset
from pipelines.collect import collect
from pipelines.curate import curate, sample
from pipelines.duplicates import common, signatures, similarity
from pipelines.prepare import prepare
from pipelines.recipe import CurationSettings, Recipe
from pipelines.steps import Run, TooLittle, manifest
from pipelines.targets import spoken
from tests.pipelines.logs import call, corrected, feedback, record, said, write


def prepared(entry: Any, **given: Any) -> dict[str, Any]:
    ranked = json.dumps([(given.pop("score", 0.0), given.pop("correction", None), "user")])
    return prepare(entry.model_dump_json(), ranked, CurationSettings(**given))


def test_a_record_becomes_a_row_with_its_target_last() -> None:
    row = prepared(
        record(1, "mail a@x.org", sampling={"tool_choice": "required", "temperature": 0.0}),
        correction=call("get_weather", day="a@x.org", city="Oslo"),
    )
    messages = json.loads(row["messages"])
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "mail <EMAIL>"
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo", "day": "<EMAIL>"}'
    assert (row["row_id"], row["session"], row["slice"]) == ("req-00001", "session-1", "get_weather")
    assert json.loads(row["options"]) == {"tool_choice": "required"}
    assert json.loads(row["scrubbed"]) == {"email": 1}


def test_white_space_makes_no_other_prompt_but_tools_do() -> None:
    right = call("play", song="Hurt")
    one, spaced, other = (
        prepared(record(n, text, **changes), correction=right)["prompt"]
        for n, text, changes in (
            (1, "play  hurt", {}),
            (2, " play hurt", {}),
            (3, "play hurt", {"tools": record(1).tools[1:]}),
        )
    )
    assert one == spaced != other


def test_what_is_left_out_says_why() -> None:
    assert prepared(record(1)) == {"row_id": "req-00001", "dropped": "low score, no correction"}


def make(state: Path, entries: list[Entry] | None = None, **curation: Any) -> Dataset:
    if entries is not None:
        write(state, entries)
    curation.setdefault("replay", {"share": 0})
    run = Run.open(Settings(state=state), Recipe.model_validate({"curation": curation}), "test", say=lambda _: None)
    try:
        return curate(run, collect(run))
    finally:
        run.update(state="done")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
class TestDataset:
    def test_every_row_is_learnt_measured_on_or_accounted_for(self, tmp_path: Path) -> None:
        entries = [*corrected(300), record(900), feedback(900, 0.1), record(901, stored=False), feedback(901, 1.0)]
        dataset = make(tmp_path, entries)
        train, held, made = dataset.train(), dataset.holdout(), manifest(dataset.path)
        assert (len(train), len(held)) == (dataset.rows, dataset.holdout_rows) == (made["rows"], made["holdout_rows"])
        assert sum(made["dropped"].values()) + len(train) + len(held) == 302
        assert made["dropped"]["low score, no correction"] == 1 and made["dropped"]["not stored"] == 1
        assert 24 <= len(held) <= 36 and {row.slice for row in held} == {"play", "get_weather"}
        assert all(row.record_ids == [row.row_id] and row.origin == "log" for row in train)
        assert made["table_version"] == dataset.table_version

    def test_no_session_and_no_near_copy_is_on_both_sides(self, tmp_path: Path) -> None:
        entries = corrected(300)
        shared = [
            entry.model_copy(update={"session": f"session-{int(entry.request_id[4:]) // 3}"})
            if entry.kind == "record"
            else entry
            for entry in entries
        ]
        # Every request once more, nearly the same, from somebody else.
        again = [
            entry.model_copy(
                update={"request_id": f"req-{int(entry.request_id[4:]) + 1000:05}"}
                | (
                    {
                        "messages": [{"role": "user", "content": entry.messages[0]["content"].upper() + "!"}],
                        "session": "x",
                    }
                    if entry.kind == "record"
                    else {}
                )
            )
            for entry in entries
        ]
        dataset = make(tmp_path, [*shared, *again])
        train, held = dataset.train(), dataset.holdout()
        assert train and held
        assert not {row.session for row in train} & {row.session for row in held}
        [snapshot] = (tmp_path / "datasets").glob("collect-*")
        ignored = common(sample(snapshot))
        learnt, measured = (signatures([spoken(row.messages[:-1]) for row in rows], ignored) for rows in (train, held))
        assert [(one, other) for one in learnt for other in measured if similarity(one, other) >= 0.85] == []
        assert manifest(dataset.path)["dropped"]["like a held-out row"] >= len(held) // 2

    def test_the_digest_is_the_same_for_any_order_and_any_number_of_workers(self, tmp_path: Path) -> None:
        entries = corrected(200)
        one = make(tmp_path / "one", entries)
        random.Random(1).shuffle(entries)
        write(tmp_path / "two", entries[:150]).compact()
        context = ray.data.DataContext.get_current()
        blocks = context.target_max_block_size
        context.target_max_block_size = 20_000
        try:
            two = make(tmp_path / "two", entries[150:])
        finally:
            context.target_max_block_size = blocks
        assert (one.digest, one.rows, one.holdout_rows) == (two.digest, two.rows, two.holdout_rows)
        assert one.train() == two.train() and one.holdout() == two.holdout()

    def test_the_holdout_stays_frozen_while_the_log_grows(self, tmp_path: Path) -> None:
        first = make(tmp_path, corrected(200))
        frozen = first.holdout()
        second = make(tmp_path, corrected(300, first=200))
        assert second.holdout() == frozen
        assert second.rows > first.rows + 200
        assert not {row.session for row in second.train()} & holdout.read(tmp_path, "assistant").sessions

    def test_a_new_tool_joins_the_holdout_once_it_can_spare_rows(self, tmp_path: Path) -> None:
        def texts(first: int, count: int) -> list[Entry]:
            rows: list[Entry] = []
            for n in range(first, first + count):
                words = f"{n * 7919 % 9973} is what {n * 104729 % 99991} says to {n * 1299709 % 999983}"
                rows += [record(n, words), feedback(n, correction=said(f"so says {n}"))]
            return rows

        first = make(tmp_path, [*corrected(200), *texts(1000, 20)])
        assert {row.slice for row in [*first.train(), *first.holdout()]} == {"play", "get_weather"}
        assert manifest(first.path)["waiting"] == {"text": 20}
        second = make(tmp_path, texts(1020, 60))
        assert second.holdout()[: len(first.holdout())] == first.holdout()
        assert {row.slice for row in second.holdout()[len(first.holdout()) :]} == {"text"}
        assert manifest(second.path)["slices"]["text"] == 80 - 8

    def test_a_cycle_killed_after_the_draw_makes_the_same_dataset(self, tmp_path: Path) -> None:
        whole = make(tmp_path, corrected(200))
        # The draw is on disk, the dataset is not: as if the power went between the two.
        (whole.path / "manifest.json").unlink()
        again = make(tmp_path)
        assert again == whole

    def test_too_few_rows_are_no_dataset_and_freeze_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(TooLittle, match=r"only .* rows to learn from, the recipe asks for 500"):
            make(tmp_path, corrected(100), min_rows=500)
        assert holdout.read(tmp_path, "assistant").rows == ()

    def test_replay_comes_from_a_file_and_keeps_clear_of_the_holdout(self, tmp_path: Path) -> None:
        dataset = make(tmp_path, corrected(200))
        held = dataset.holdout()[0]
        old = [
            {"messages": [{"role": "user", "content": f"old {n * 7919} words {n}"}, said(f"{n}")]} for n in range(50)
        ]
        copied = {"messages": [held.messages[0], said("leak")], "tools": []}
        path = tmp_path / "old.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in [*old, copied]))
        replayed = make(tmp_path, replay={"share": 0.5, "source": str(path)})
        extra = [row for row in replayed.train() if row.origin == "replay"]
        assert len(extra) == replayed.replay_rows == 50
        assert all(row.record_ids == [] and row.slice == "text" for row in extra)
        assert manifest(replayed.path)["dropped"]["replay like a held-out row"] == 1
        assert replayed.digest != dataset.digest and replayed.rows == dataset.rows
