"""The driver's loop, with a cluster of which a test says how much is free and what serving asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.arbiter import Sharing
from cluster.pressure import Gauge
from cluster.records import Move
from pipelines import elastic
from pipelines.elastic import Elastic, Ground, Moves
from pipelines.recipe import TrainingSettings
from tests.waiting import eventually


class Cluster:
    """What Ray would say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.wish = 8, None
        monkeypatch.setattr(elastic, "free", lambda _: self.free)
        monkeypatch.setattr(elastic, "wish", lambda: self.wish)
        monkeypatch.setattr(elastic, "LOOK_S", 0.01)


class Training:
    """Attempts that a test scripts: each takes the workers it gets, and says why it left (None: it is done)."""

    def __init__(self, folder: Path, workers: int, min_workers: int, **sharing: float) -> None:
        self.ground = Ground(folder=str(folder / "sharing"), pressure=str(folder / "pressure"))
        rules = Sharing(**{"calm_s": 0, "settle_s": 0, **sharing})
        settings = TrainingSettings(workers=workers, min_workers=min_workers, sharing=rules)
        self.moves: list[Move] = []
        self.elastic = Elastic(self.ground, settings, False, self.note)
        self.worker = Moves(Path(self.ground.folder), "worker-0")
        self.attempts: list[int] = []

    def note(self, moves: list[Move]) -> None:
        self.moves = moves

    def run(self, *attempts) -> None:
        script = iter(attempts)

        def attempt(workers: int) -> Move | None:
            self.attempts.append(workers)
            return next(script)()

        assert self.elastic.run(attempt, lambda move: move) is None

    def done(self) -> None:
        return None

    def told_to_leave(self) -> Move:
        return eventually(self.worker.ordered, 10, "an order to leave")

    def by_themselves(self) -> Move:
        """What workers do under long pressure."""
        return Move(time=2e9, kind="shrink", workers=0, most=1, reason="serving has been busy for 120 s")

    @property
    def story(self) -> list[tuple[str, int, str]]:
        return [(move.kind, move.workers, move.reason) for move in self.moves]


@pytest.fixture
def cluster(monkeypatch) -> Cluster:
    return Cluster(monkeypatch)


def test_training_that_may_not_shrink_is_one_attempt(cluster, tmp_path) -> None:
    cluster.free, cluster.wish = 0, "2 CPU"
    training = Training(tmp_path, workers=2, min_workers=2)
    training.run(training.done)
    assert training.attempts == [2], "Ray waits for their place"
    assert training.story == [("grow", 2, "training begins")]


def test_what_serving_asks_for_it_gets_and_training_grows_back(cluster, tmp_path) -> None:
    training = Training(tmp_path, workers=1, min_workers=0)

    def attempt() -> Move:
        cluster.wish = "2 CPU"
        return training.told_to_leave()

    def again() -> None:
        assert training.worker.ordered() is None, "the order has been followed"

    original = training.note

    def note(moves: list[Move]) -> None:
        original(moves)
        if moves[-1].kind == "shrink":
            cluster.wish = None  # the replica found its place, and later left again

    training.elastic._note = note
    training.run(attempt, again)
    calm = "serving is calm and there is room for 1 of 1 workers"
    assert training.story == [("grow", 1, calm), ("shrink", 0, "serving asks for 2 CPU"), ("grow", 1, calm)]


def test_workers_come_back_as_they_find_room(cluster, tmp_path) -> None:
    """From one to two to four, and none that would make a step uneven."""
    training = Training(tmp_path, workers=4, min_workers=1)
    cluster.free = 1

    def with_room_for(more: int):
        def attempt() -> Move:
            cluster.free = more
            return training.told_to_leave()

        return attempt

    training.run(with_room_for(2), with_room_for(2), training.done)
    assert training.attempts == [1, 2, 4], "three do not divide four"
    assert [(kind, workers) for kind, workers, _ in training.story] == [("grow", 1), ("grow", 2), ("grow", 4)]


def test_down_to_the_fewest_workers_and_no_further(cluster, tmp_path) -> None:
    training = Training(tmp_path, workers=4, min_workers=2, settle_s=3600)

    def attempt() -> Move:
        cluster.wish = "1 GPU"
        return training.told_to_leave()

    training.run(attempt, training.done)
    assert training.attempts == [4, 2]
    assert training.story[1:] == [("shrink", 2, "serving asks for 1 GPU")]


def test_workers_that_left_by_themselves_come_back_once_serving_is_calm(cluster, tmp_path) -> None:
    training = Training(tmp_path, workers=1, min_workers=0)
    gauge = Gauge(tmp_path / "pressure")
    waiting = []

    def attempt() -> Move:
        waiting.append(gauge.asked())
        return training.by_themselves()

    decide = training.elastic._decide

    def look(workers: int):
        decision = decide(workers)
        if workers == 0 and waiting and decision.reason == "serving has been busy just now":
            gauge.answered(waiting.pop())
        return decision

    training.elastic._decide = look
    training.run(attempt, training.done)
    assert training.attempts == [1, 1] and not waiting, "not before the last answer had ended"
    assert training.story[-1][:2] == ("shrink", 0), "by the times of these moves"


def test_moves_of_all_writers_are_one_story(tmp_path) -> None:
    driver, worker = Moves(tmp_path, "driver"), Moves(tmp_path, "worker-0")
    pause = Move(time=2, kind="pause", workers=1, most=1, reason="3 requests under way")
    grow = Move(time=1, kind="grow", workers=1, most=1, reason="training begins")
    worker.write(pause)
    driver.write(grow)
    assert driver.all() == [grow, pause]
    longer = pause.model_copy(update={"times": 7, "seconds": 1.5})
    worker.write(longer)
    assert driver.all() == [grow, longer], "the same pause, of which more is known now"
    with (tmp_path / "worker-0.jsonl").open("a") as file:
        file.write('{"time": 3, "kind": "pau')
    assert driver.all() == [grow, longer], "a line that nobody finished"
