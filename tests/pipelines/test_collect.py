from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as datasets
import pytest

from cluster.records import Entry, Feedback
from cluster.settings import Settings
from pipelines.artifacts import Snapshot
from pipelines.collect import collect, newest, rank
from pipelines.recipe import Recipe
from pipelines.steps import Run, TooLittle
from tests.pipelines.logs import START, call, corrected, feedback, record, write

RIGHT = call("play", song="Hurt")


def ranked(entries: list[Feedback], *sources: str) -> list[tuple[float, str]]:
    return [(score, source) for score, _, source in rank(entries, sources)]


def test_a_later_feedback_of_the_same_source_replaces_the_earlier() -> None:
    entries = [feedback(1, 0.2, time=3.0), feedback(1, 0.9, time=5.0), feedback(1, 0.4, time=4.0)]
    assert [entry.score for entry in newest(entries, 10)["req-00001"]] == [0.9]
    assert newest(entries, 10) == newest(reversed(entries), 10)


def test_sources_stand_by_trust_and_then_by_time() -> None:
    entries = [feedback(1, 0.1, source="bot", time=9.0), feedback(1, 0.2, source="judge", time=1.0)]
    entries += [feedback(1, 0.3, source="user", time=2.0), feedback(1, 0.4, source="app", time=8.0)]
    assert ranked(entries, "user", "judge") == [(0.3, "user"), (0.2, "judge"), (0.1, "bot"), (0.4, "app")]


def test_only_the_newest_requests_are_kept_when_there_are_too_many() -> None:
    entries = [feedback(number) for number in range(10)]
    assert set(newest(entries, 3)) == {"req-00009", "req-00008", "req-00007"}


Collect = Callable[..., tuple[Snapshot, dict[str, list[Any]]]]


@pytest.fixture
def gather(local_ray: None, tmp_path: Path) -> Collect:
    def run(**window: Any) -> tuple[Snapshot, dict[str, list[Any]]]:
        recipe = Recipe.model_validate({"window": window})
        begun = Run.open(Settings(state=tmp_path), recipe, "test", say=lambda _: None)
        begun.update(state="done")  # the next one reads the newest table
        snapshot = collect(begun)
        rows = datasets.dataset(str(snapshot.path), format="parquet", exclude_invalid_files=True).to_table().to_pylist()
        return snapshot, {row["request_id"]: json.loads(row["feedback"]) for row in rows}

    return run


@pytest.mark.ray
def test_answers_are_joined_with_what_was_thought_of_them(tmp_path: Path, gather: Collect) -> None:
    entries: list[Entry] = [
        record(1),
        feedback(1, 0.0),
        feedback(1, 1.0, time=START + 9),
        feedback(1, 0.5, source="judge", correction=RIGHT),
        record(2),
        record(3, alias="writer"),
        feedback(3),
        record(4, alias=None, arm="direct", version="assistant@1"),
        feedback(4),
        feedback(5),
        feedback(6, 0.75, time=START + 100),
        record(6, time=START + 99),
    ]
    log = write(tmp_path, reversed(entries))
    snapshot, found = gather()
    assert found == {"req-00001": [[1.0, None, "user"], [0.5, RIGHT, "judge"]], "req-00006": [[0.75, None, "user"]]}
    assert snapshot.rows == 2 and snapshot.table_version == log.stats().table_version


@pytest.mark.ray
def test_the_window_counts_back_from_the_newest_feedback(tmp_path: Path, gather: Collect) -> None:
    day_s = 86_400.0
    ages = {1: 40 * day_s, 2: 20 * day_s, 3: 0.0}
    write(
        tmp_path, [entry for n, age in ages.items() for entry in (record(n, time=START - age), feedback(n, time=START))]
    )
    assert set(gather(days=30)[1]) == {"req-00002", "req-00003"}
    assert set(gather(days=365)[1]) == {"req-00001", "req-00002", "req-00003"}


@pytest.mark.ray
def test_what_comes_after_the_table_was_pinned_belongs_to_the_next_cycle(tmp_path: Path, local_ray: None) -> None:
    settings = Settings(state=tmp_path)
    write(tmp_path, corrected(4))
    killed = Run.open(settings, Recipe(), "test")
    first = collect(killed)

    write(tmp_path, corrected(4, first=4)).compact()
    resumed = Run.open(settings, Recipe(), "test")
    assert collect(resumed) == first

    resumed.update(state="done")
    after = collect(Run.open(settings, Recipe(), "test"))
    assert (first.rows, after.rows) == (4, 8) and after.table_version > first.table_version


@pytest.mark.ray
def test_without_feedback_there_is_nothing_to_learn(tmp_path: Path, gather: Collect) -> None:
    with pytest.raises(TooLittle, match="holds no feedback"):
        gather()
    write(tmp_path, [record(1)])
    with pytest.raises(TooLittle, match="holds no feedback"):
        gather()
    write(tmp_path, [record(2, alias="writer"), feedback(2)])
    with pytest.raises(TooLittle, match="no request to assistant"):
        gather()
