"""The driver's side of sharing: it gives a training as many workers as there is room for, and takes them away again.

A training is a row of attempts, each from the last one's checkpoint, with as many workers as fit just then. While one
is under way a thread looks what serving asks the cluster for, and orders the workers to leave (`sharing.py`); while
there is none, nothing of the training is in the cluster but this loop.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cluster import durable, pressure
from cluster.arbiter import Grow, Keep, Pause, Shrink, State, decide, divisor
from cluster.pressure import Node
from cluster.records import Frozen, Move
from cluster.settings import Settings
from pipelines.recipe import TrainingSettings

LOOK_S = 0.5
KEPT = 100
"""Moves that a run's record keeps, the last ones."""

Result = TypeVar("Result")


class Ground(Frozen):
    """Where workers learn what serving needs and leave what they did."""

    folder: str
    """For orders and moves: on storage that the driver and all workers reach."""
    pressure: str
    """Load of a worker's own machine, by the same path on each."""

    @classmethod
    def of(cls, settings: Settings, work: Path) -> Ground:
        return cls(folder=str(work / "sharing"), pressure=str(pressure.path(settings)))


class Moves:
    """What was done, a file for each writer; and the driver's order to leave, if there is one."""

    def __init__(self, folder: Path, writer: str) -> None:
        durable.make_folder(folder)
        self._folder, self._own, self._order = folder, folder / f"{writer}.jsonl", folder / "order.json"

    def write(self, move: Move) -> None:
        """Of the same time as an earlier one: in its place."""
        with self._own.open("a") as file:
            file.write(move.model_dump_json() + "\n")

    def all(self) -> list[Move]:
        """The last ones of all writers, oldest first."""
        found: dict[tuple[str, float], Move] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):  # else its writer is still at it, or died
                    move = Move.model_validate_json(line)
                    found[file.name, move.time] = move
        return sorted(found.values(), key=lambda move: move.time)[-KEPT:]

    def order(self, move: Move | None) -> None:
        if move:
            durable.replace(self._order, move.model_dump_json().encode())
        else:
            self._order.unlink(missing_ok=True)

    def ordered(self) -> Move | None:
        try:
            return Move.model_validate_json(self._order.read_bytes())
        except FileNotFoundError:
            return None


class Elastic:
    """A training with `training.least` to `training.workers` workers."""

    def __init__(
        self, ground: Ground, training: TrainingSettings, gpu: bool, note: Callable[[list[Move]], None]
    ) -> None:
        self._rules, self._least, self._most = training.sharing, training.least, training.workers
        self._whole = training.parallel != "ddp"
        self._resource = "GPU" if gpu else "CPU"
        self._pauses = self._rules.pause == "always" or (self._rules.pause == "auto" and not gpu)
        self._moves, self._node, self._note = Moves(Path(ground.folder), "driver"), Node(Path(ground.pressure)), note
        self._shrank = -float("inf")
        self._wanted: str | None = None
        self._told: list[Move] = []

    def run(self, attempt: Callable[[int], Result], left: Callable[[Result], Move | None]) -> Result:
        """The result of the attempt that came to its end. `left` says why workers left before it."""
        workers = self._begin()
        while True:
            self._moves.order(None)
            with self._watching(workers):
                result = attempt(workers)
            move = left(result)
            if move is None:
                return result
            self._did(move)
            if move.kind == "shrink":
                self._shrank = time.monotonic()
            workers = move.workers or self._wait()

    def _begin(self) -> int:
        """At least the fewest workers begin at once; Ray waits for their place if there is none."""
        if not self._least:
            return self._wait()
        workers = max(self._least, divisor(self._most, free(self._resource)))
        self._did(self._move("grow", workers, "training begins"))
        return workers

    def _wait(self) -> int:
        """Until there is room for workers; how many then."""
        while not isinstance(decision := self._decide(0), Grow):
            self._tell()
            time.sleep(LOOK_S)
        self._did(self._move("grow", decision.workers, decision.reason))
        return decision.workers

    @contextlib.contextmanager
    def _watching(self, workers: int) -> Iterator[None]:
        """Order `workers` to leave as soon as serving asks for what they have, or there is room for more."""
        over = threading.Event()

        def watch() -> None:
            ordered = False
            while not over.wait(LOOK_S):
                self._tell()
                decision = self._decide(workers) if not ordered else None
                if isinstance(decision, Shrink | Grow):
                    kind = "shrink" if isinstance(decision, Shrink) else "grow"
                    self._moves.order(self._move(kind, decision.workers, decision.reason))
                    ordered = True

        thread = threading.Thread(target=watch, name="sharing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._tell()

    def _decide(self, workers: int) -> Keep | Pause | Shrink | Grow:
        wanted, before = wish(), self._wanted
        self._wanted = wanted
        state = State(
            workers=workers,
            least=self._least,
            most=self._most,
            whole=self._whole,
            load=self._node.load(),
            pauses=self._pauses,
            wanted=wanted if before else None,  # seen twice: a replica that finds its place waits for a moment too
            fitting=workers + free(self._resource),
            moved_s=time.monotonic() - self._shrank,
        )
        return decide(state, self._rules)

    def _move(self, kind: Any, workers: int, reason: str) -> Move:
        return Move(time=time.time(), kind=kind, workers=workers, most=self._most, reason=reason)

    def _did(self, move: Move) -> None:
        self._moves.write(move)
        self._tell()

    def _tell(self) -> None:
        moves = self._moves.all()
        if moves != self._told:
            self._told = moves
            self._note(moves)


def free(resource: str) -> int:
    """Workers that the cluster has room for beside everything that runs: each takes a processor, or that and a GPU."""
    import ray

    available = ray.available_resources()
    return int(min(available.get("CPU", 0), available.get(resource, 0)))


def wish() -> str | None:
    """What replicas ask the cluster for and do not find, in words: Serve makes a placement group for each of them."""
    import ray.util

    asked: dict[str, float] = {}
    for group in ray.util.placement_group_table().values():
        if group["state"] == "PENDING" and group["name"].startswith("SERVE_REPLICA::"):
            for bundle in group["bundles"].values():
                for resource, amount in bundle.items():
                    asked[resource] = asked.get(resource, 0) + amount
    return " and ".join(f"{amount:g} {resource}" for resource, amount in sorted(asked.items())) or None
