"""A worker makes way for serving, whose load a test shows on the gauge: by a clock of its own, then for real."""

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
from tests.pipelines.training import QUICK, in_this_process, job
from tests.waiting import eventually

RULES = Sharing(quiet_s=0.05, calm_s=0.1, settle_s=0)
REAL = pytest.mark.ray
LONGER = QUICK.model_copy(update={"epochs": 12.0, "sharing": RULES})


class Machine:
    """One worker beside one replica, on a clock that only this test moves."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1, least: int = 1, **rules
    ) -> None:
        from pipelines import sharing

        self.now = 1000.0
        self.busy: Callable[[float], bool] = lambda now: True
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.pass_by)
        monkeypatch.setattr(sharing, "LOOK_S", 0.1)
        self.gauge, self.asked, self.slept_s = Gauge(folder / "pressure"), 0, 0.0
        self.ground = Ground(folder=str(folder / "sharing"), pressure=str(folder / "pressure"))
        settings = TrainingSettings(workers=workers, min_workers=least, sharing=Sharing(**rules))
        self.worker = sharing.Worker(self.ground, settings, 0, workers, gpu=False)

    def pass_by(self, seconds: float, worked: bool = False) -> None:
        self.now += seconds
        self.slept_s += 0 if worked else seconds
        self.gauge.beat()
        if self.busy(self.now) and not self.asked:
            self.asked = self.gauge.asked()
        elif self.asked and not self.busy(self.now):
            self.gauge.answered(self.asked)
            self.asked = 0

    def train(self, seconds: float, layer_s: float = 0.1) -> None:
        """Until so much time has passed, or the worker wants to leave."""
        until = self.now + seconds
        while self.now < until and not self.worker.leaving:
            self.pass_by(layer_s, worked=True)
            self.worker.make_way()

    @property
    def moves(self) -> list[Move]:
        self.worker.close()
        return Moves(Path(self.ground.folder), "test").all()


def test_worker_has_its_least_share_where_requests_never_pause(tmp_path, monkeypatch) -> None:
    machine = Machine(tmp_path, monkeypatch, least_share=0.25)
    machine.train(300)
    began, slept_s = machine.now, machine.slept_s
    machine.train(300)
    assert 1 - (machine.slept_s - slept_s) / (machine.now - began) == pytest.approx(0.25, abs=0.03)


def test_bursts_do_not_come_to_feel_the_least_share(tmp_path, monkeypatch) -> None:
    machine = Machine(tmp_path, monkeypatch, least_share=0.25, quiet_s=0.1)
    machine.busy = lambda now: now % 60 < 18
    machine.train(600)
    assert machine.slept_s == pytest.approx(10 * 18, rel=0.05)
    assert machine.worker.paused_s == pytest.approx(machine.slept_s, rel=0.01)


def test_worker_leaves_after_long_pressure_if_there_may_be_fewer(tmp_path, monkeypatch) -> None:
    machine = Machine(tmp_path, monkeypatch, least=0, shrink_after_s=60)
    began = machine.now
    machine.train(600)
    assert machine.now - began == pytest.approx(60, abs=0.5)
    left = machine.worker.leaving
    assert (left.kind, left.workers, left.reason) == (
        "shrink",
        0,
        "serving has been busy for 60 s: 1 request under way",
    )
    slept_s = machine.slept_s
    machine.worker.make_way()
    assert machine.slept_s == slept_s, "the sooner its step is over the better"


def test_worker_that_stands_still_hears_its_driver(tmp_path, monkeypatch) -> None:
    machine = Machine(tmp_path, monkeypatch, least=0)
    order = Move(time=5.0, kind="shrink", workers=0, most=1, reason="serving asks for 2 CPU")
    driver = Moves(Path(machine.ground.folder), "driver")

    def busy(now: float) -> bool:
        if 1003 <= now < 1003.05:
            driver.order(order)
        return True

    machine.busy = busy
    machine.train(60)
    assert machine.worker.leaving == order and 1003 < machine.now < 1003.5


def test_pauses_soon_after_one_another_are_one_move(tmp_path, monkeypatch) -> None:
    machine = Machine(tmp_path, monkeypatch, quiet_s=0)
    starts = (1002, 1004, 1006, 1040)
    machine.busy = lambda now: any(start <= now < start + 1 for start in starts)
    clock = iter(range(1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    machine.train(70)
    first, second = machine.moves
    assert (first.kind, first.times, second.times) == ("pause", 3, 1)
    assert first.seconds == pytest.approx(3, abs=0.3) and second.seconds == pytest.approx(1, abs=0.1)
    assert (first.reason, first.workers, first.most) == ("1 request under way", 1, 1)


def test_trainer_asks_before_each_layer_and_after_each_of_its_gradients(torch) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl

    from pipelines.sharing import Yielding

    class Count:
        asked = tokens = 0

        def make_way(self) -> None:
            self.asked += 1

        def trained(self, tokens: int) -> None:
            self.tokens += tokens

        def close(self) -> None: ...

    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=3, **shape))
    count = Count()
    yielding, control = Yielding(count), TrainerControl()
    yielding.on_train_begin(None, None, control, model=model)
    ids = torch.randint(0, 64, (2, 7))
    loss = model(input_ids=ids, labels=ids).loss
    assert count.asked == 3
    loss.backward()
    assert count.asked == 6
    yielding.on_substep_end(None, None, control)
    assert (count.asked, count.tokens) == (7, 14)
    yielding.on_train_end(None, None, control)
    model(input_ids=ids)
    assert count.asked == 7, "the model is as it was"


def test_fewest_workers_that_do_not_divide_the_most_are_refused() -> None:
    with pytest.raises(ValueError, match="min_workers is 0 or divides workers, and 3 does not divide 4"):
        TrainingSettings(workers=4, min_workers=3)
    with pytest.raises(ValueError, match="2 does not divide 1"):
        TrainingSettings(min_workers=2)
    with pytest.raises(
        ValueError, match="zero2 is taken up by as many workers as left it; min_workers is 0 or 4 there"
    ):
        TrainingSettings(workers=4, min_workers=2, parallel="zero2")
    assert (TrainingSettings(workers=2).least, TrainingSettings(min_workers=0).least) == (2, 0)


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


@REAL
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


@REAL
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


@REAL
def test_two_workers_stand_still_together_and_leave_together(dataset, models, local_ray, tmp_path) -> None:
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
