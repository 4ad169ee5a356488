"""A training to which everything happens that can: it ends with the weights of one that was left alone."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines import checkpoints
from pipelines import train as module
from pipelines.artifacts import Dataset
from pipelines.train import Outcome, fit
from tests.pipelines.training import QUICK, job, own_processes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(900)]

LONG = QUICK.model_copy(update={"epochs": 36.0, "checkpoint_every_s": 1.0})
"""Twice as long as the faults need, one after the other, on quiet cores."""


@dataclass
class Story:
    """What happened to the training, and what it came to."""

    errors: dict[str, BaseException] = field(default_factory=dict)
    torn: Path | None = None
    taken: Path | None = None
    """The checkpoint that was torn, and the one that was then the newest sound one."""
    outcome: Outcome = field(default_factory=Outcome)


@pytest.fixture(scope="module")
def undisturbed(
    dataset: Dataset, models: dict[str, Path], local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, fit(job(dataset, models["llama"], LONG), folder / "work", folder)


@pytest.fixture(scope="module")
def disturbed(
    dataset: Dataset, models: dict[str, Path], local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Story]]:
    """Its worker is killed, its newest checkpoint torn, its controller killed, its disk full; then it ends."""
    folder, story = tmp_path_factory.mktemp("disturbed"), Story()
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "ATTEMPTS", 1)
    with small_disk(folder / "disk") as disk:
        work = disk / "work"

        def attempt(name: str) -> None:
            try:
                fit(job(dataset, models["llama"], LONG), work, folder)
            except Exception as error:
                story.errors[name] = error

        def killed(name: str, after: int = 1) -> None:
            known, ended = set(work.glob("checkpoint_*")), threading.Event()
            grown = lambda: len(whole(work) - known) >= after  # noqa: E731
            kill = lambda: [process.kill() for process in own_processes(name)]  # noqa: E731
            culprit = threading.Thread(target=when, args=(grown, kill, ended))
            culprit.start()
            attempt(name)
            ended.set()
            culprit.join()

        killed("RayTrainWorker", after=2)
        story.torn = checkpoints.newest(work)
        weights = next(story.torn.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
        story.taken = checkpoints.newest(work)
        killed("TrainController")
        free_places()
        with filled(disk):
            attempt("disk")
        story.outcome = fit(job(dataset, models["llama"], LONG), work, folder)
        yield folder, story
    patch.undo()


def test_each_fault_ended_its_attempt_and_says_what_to_do(disturbed: tuple[Path, Story]) -> None:
    errors = disturbed[1].errors
    assert set(errors) == {"RayTrainWorker", "TrainController", "disk"}
    assert all("run it again: it goes on from its newest checkpoint" in str(error) for error in errors.values())
    assert "no space left" in str(errors["disk"]).lower()


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(disturbed: tuple[Path, Story]) -> None:
    story = disturbed[1]
    assert story.torn and story.taken and story.taken.name < story.torn.name


def test_after_all_of_it_the_weights_are_those_of_an_undisturbed_training(
    disturbed: tuple[Path, Story], undisturbed: tuple[Path, Outcome]
) -> None:
    """Which holds only if no row was learnt twice, and none missed."""
    from safetensors.torch import load_file

    (mine, story), (theirs, outcome) = disturbed, undisturbed
    steps = [entry["step"] for entry in story.outcome.history]
    assert steps == sorted(set(steps)) and steps[-1] == outcome.history[-1]["step"]
    ended, left_alone = (load_file(folder / "adapter_model.safetensors") for folder in (mine, theirs))
    assert all(ended[name].equal(left_alone[name]) for name in left_alone)


def whole(work: Path) -> set[Path]:
    return {path for path in work.glob("checkpoint_*") if checkpoints.sound(path)}


def when(condition: Callable[[], object], act: Callable[[], object], ended: threading.Event) -> None:
    """Act as soon as the condition holds; give up when the training has ended."""
    while not ended.wait(0.05):
        if condition():
            act()
            return


def free_places() -> None:
    """Give back what the dead controller's workers had: Ray Train's own cleaner hears of its death from the dashboard,
    and this cluster has none."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    for name, group in placement_group_table().items():
        if group["state"] == "CREATED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own that can be filled."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """While it lasts the disk has room for what Ray Train notes down about a run, but not for a checkpoint."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"0" * (shutil.disk_usage(disk).free - 2**16))
    yield
    filler.unlink()
