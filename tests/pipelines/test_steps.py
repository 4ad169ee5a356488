from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import Settings
from pipelines.recipe import Recipe
from pipelines.steps import ATTEMPTS, Run, cycle_running, manifest, only_cycle, runs, step
from tests.waiting import eventually


def write(text: str) -> Any:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "out.txt").write_text(text)
        return {"letters": len(text)}

    return make


def fail(folder: Path) -> dict[str, Any]:
    (folder / "half.txt").write_text("half")
    raise RuntimeError("power cut")


def test_a_step_is_done_once_for_the_same_inputs(tmp_path: Path) -> None:
    first = step(tmp_path, "a", {"x": 1, "y": 2}, write("one"))
    assert step(tmp_path, "a", {"y": 2, "x": 1}, fail) == first
    assert step(tmp_path, "a", {"x": 2}, write("other")) != first
    assert (first / "out.txt").read_text() == "one"
    assert manifest(first)["letters"] == 3 and manifest(first)["inputs"] == {"x": 1, "y": 2}


def test_a_step_that_died_leaves_nothing_that_passes_for_done(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        step(tmp_path, "a", {}, fail)
    assert list((tmp_path / "datasets").glob("[!.]*")) == []
    folder = step(tmp_path, "a", {}, write("whole"))
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "out.txt"]
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [folder.name]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path)


def test_a_run_keeps_what_happened(settings: Settings) -> None:
    run = Run.open(settings, Recipe(), "default", job="job-1")
    run.step("collect", {"x": 1}, write("rows"))
    with run.timed("gate"):
        pass
    with pytest.raises(RuntimeError):
        run.step("train", {}, fail)
    [record] = runs(settings.state)
    assert record.job == "job-1" and record.state == "running"
    assert {name: done.state for name, done in record.steps.items()} == {
        "collect": "done",
        "gate": "done",
        "train": "failed",
    }
    assert set(record.timings_s) == {"collect", "gate"}
    assert (settings.state / str(record.steps["collect"].folder) / "out.txt").exists()


def test_an_unfinished_run_is_taken_up_with_its_table_and_its_steps(settings: Settings) -> None:
    killed = Run.open(settings, Recipe(), "default")
    killed.update(table_version=7)
    killed.step("collect", {}, write("rows"))
    took = killed.record.timings_s["collect"]

    again = Run.open(settings, Recipe(), "default")
    assert (again.record.id, again.record.table_version, again.record.attempts) == (killed.record.id, 7, 2)
    again.step("collect", {}, fail)
    assert again.record.steps["collect"].reused
    assert again.record.timings_s["collect"] == took


def test_a_finished_run_is_followed_by_a_new_one(settings: Settings) -> None:
    done = Run.open(settings, Recipe(), "default")
    done.update(state="done", table_version=7)
    new = Run.open(settings, Recipe(), "default")
    assert new.record.id != done.record.id and new.record.table_version is None


def test_another_recipe_does_not_take_up_the_run(settings: Settings) -> None:
    first = Run.open(settings, Recipe(), "default")
    assert Run.open(settings, Recipe(alias="writer"), "mine").record.id != first.record.id


def test_a_run_that_keeps_failing_is_given_up(settings: Settings) -> None:
    ids = []
    for _ in range(ATTEMPTS + 1):
        run = Run.open(settings, Recipe(), "default")
        run.update(state="failed")
        ids.append(run.record.id)
    assert len(set(ids[:ATTEMPTS])) == 1 and ids[ATTEMPTS] != ids[0]


HOLD = """
import sys, time
from pathlib import Path
from pipelines.steps import only_cycle
with only_cycle(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_cycle_at_a_time_and_a_killed_one_frees_the_lock(tmp_path: Path) -> None:
    assert not cycle_running(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert cycle_running(tmp_path)
        with (
            pytest.raises(ValueError, match=f"a cycle is running already .process {holder.pid} "),
            only_cycle(tmp_path, 0),
        ):
            pass
        holder.kill()
    eventually(lambda: not cycle_running(tmp_path), 10, "the lock is free")
    with only_cycle(tmp_path, 0):
        assert cycle_running(tmp_path)
