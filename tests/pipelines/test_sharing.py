"""A real training makes way for serving, whose load a test shows on the gauge."""

# ruff: noqa: F811  # fixtures are imported

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.arbiter import Sharing
from cluster.pressure import Gauge, Node, Trainer
from cluster.records import Move
from pipelines.elastic import Ground, Moves
from pipelines.recipe import TrainingSettings
from pipelines.train import Job, Outcome, fit
from tests.pipelines.test_train import QUICK, dataset, in_this_process, job, models  # noqa: F401
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("local_ray")]

RULES = Sharing(quiet_s=0.05, calm_s=0.1, settle_s=0)
LONGER = QUICK.model_copy(update={"epochs": 12.0, "sharing": RULES})


def sharing(told: Job, folder: Path) -> Job:
    folder.mkdir(exist_ok=True)
    return told.model_copy(update={"ground": Ground(folder=str(folder / "sharing"), pressure=str(folder / "pressure"))})


@contextmanager
def beside(act: Callable[[], None]):
    """Do something while a training runs; what goes wrong there is raised here."""
    wrong: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if wrong:
        raise wrong[0]


def the_trainer(node: Node) -> Trainer | None:
    return next(iter(node.trainers()), None)


@pytest.fixture(scope="module")
def undisturbed(dataset, models, local_ray, tmp_path_factory) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return fit(job(dataset, models["llama"], LONGER), folder / "work", folder), folder


def test_training_stands_still_under_requests_and_comes_to_the_same_end(dataset, models, undisturbed, tmp_path) -> None:
    gauge, node = Gauge(tmp_path / "pressure"), Node(tmp_path / "pressure")
    still: list[tuple[int, float]] = []

    def requests() -> None:
        eventually(lambda: (it := the_trainer(node)) and it.tokens, 120, "training is under way")
        for times in range(3):
            number = gauge.asked()
            began = time.monotonic()
            it = eventually(lambda: the_trainer(node), 30, "it stands still", lambda it: it.paused)
            took_s = time.monotonic() - began
            enough_s = 0.5 * (times + 1)
            later = eventually(lambda: the_trainer(node), 10, "a while", lambda it: it.paused_s > enough_s)  # noqa: B023
            still.append((later.tokens - it.tokens, took_s))
            gauge.answered(number)
            eventually(lambda: the_trainer(node), 30, "it goes on", lambda it: not it.paused)

    told = sharing(job(dataset, models["llama"], LONGER), tmp_path)
    began = time.monotonic()
    with beside(requests):
        outcome = in_this_process(told)
    wall_s = time.monotonic() - began
    assert [trained for trained, _ in still] == [0, 0, 0]
    assert min(took_s for _, took_s in still) < 0.5, "within a layer's time; it is looked at ten times a second"
    alone = undisturbed[0].metrics
    assert outcome.metrics["train_steps"] == alone["train_steps"]
    assert outcome.metrics["train_seconds"] < wall_s - 1.5, "its clock did not count the pauses"
    pauses = [move for move in Moves(Path(told.ground.folder), "test").all() if move.kind == "pause"]
    assert pauses[0].reason == "1 request under way" and (pauses[0].workers, pauses[0].most) == (1, 1)
    assert sum(pause.times for pause in pauses) >= 3 and sum(pause.seconds for pause in pauses) > 1.5


def test_training_goes_down_to_nothing_for_serving_and_comes_back_to_the_same_weights(
    dataset, models, undisturbed, tmp_path
) -> None:
    """Serve makes a placement group for each replica: here one asks for all processors."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from safetensors.torch import load_file

    node, noted = Node(tmp_path / "pressure"), list[list[Move]]()
    Gauge(tmp_path / "pressure")
    served: list[float] = []

    def replica() -> None:
        eventually(lambda: (it := the_trainer(node)) and it.tokens, 120, "training is under way")
        began = time.monotonic()
        place = placement_group([{"CPU": 2}], name="SERVE_REPLICA::assistant#Gateway:seed#1")
        ray.get(place.ready(), timeout=60)
        served.append(time.monotonic() - began)
        eventually(lambda: not node.trainers(), 30, "the worker is gone, with its memory")
        eventually(lambda: noted[-1][-1].kind == "shrink", 30, "it is said")
        remove_placement_group(place)

    settings = LONGER.model_copy(update={"min_workers": 0})
    told = sharing(job(dataset, models["llama"], settings), tmp_path)
    with beside(replica):
        outcome = fit(told, tmp_path / "work", tmp_path, noted.append)
    assert served[0] < 30
    story = [(move.kind, move.workers, move.most) for move in noted[-1] if move.kind != "pause"]
    assert story == [("grow", 1, 1), ("shrink", 0, 1), ("grow", 1, 1)]
    assert noted[-1][1].reason == "serving asks for 2 CPU"
    alone, folder = undisturbed
    assert outcome.metrics["train_steps"] == alone.metrics["train_steps"]
    steps = [entry["step"] for entry in outcome.history]
    assert steps == sorted(set(steps)), "no step was done twice"
    ours, theirs = (load_file(place / "adapter_model.safetensors") for place in (tmp_path, folder))
    assert all(ours[name].equal(theirs[name]) for name in theirs), "no row was missed, none came twice"


def test_two_workers_stand_still_together_and_leave_together(dataset, models, tmp_path) -> None:
    gauge, node, noted = Gauge(tmp_path / "pressure"), Node(tmp_path / "pressure"), list[list[Move]]()

    def burst() -> None:
        eventually(lambda: all(it.tokens for it in node.trainers()) and node.trainers(), 180, "both train")
        number = gauge.asked()
        eventually(lambda: len(noted[-1]) and noted[-1][-1].kind == "shrink", 120, "they left under long pressure")
        gauge.answered(number)

    settings = LONGER.model_copy(
        update={"workers": 2, "min_workers": 1, "sharing": Sharing(quiet_s=0.05, shrink_after_s=1, settle_s=3600)}
    )
    told = sharing(job(dataset, models["llama"], settings), tmp_path)
    with beside(burst):
        outcome = fit(told, tmp_path / "work", tmp_path, noted.append)
    story = [(move.kind, move.workers) for move in noted[-1] if move.kind != "pause"]
    assert story == [("grow", 2), ("shrink", 1)]
    assert "busy for 1 s" in next(move.reason for move in noted[-1] if move.kind == "shrink")
    steps = [entry["step"] for entry in outcome.history]
    assert steps == sorted(set(steps)) and outcome.metrics["train_steps"] == steps[-1]
    assert outcome.history[-1]["loss"] < outcome.history[0]["loss"] / 2


def test_fewest_workers_that_do_not_divide_the_most_are_refused() -> None:
    with pytest.raises(ValueError, match="min_workers is 0 or divides workers, and 3 does not divide 4"):
        TrainingSettings(workers=4, min_workers=3)
    with pytest.raises(ValueError, match="2 does not divide 1"):
        TrainingSettings(min_workers=2)
    assert (TrainingSettings(workers=2).least, TrainingSettings(min_workers=0).least) == (2, 0)
