"""Steps that are done once: a step's output is addressed by the hash of what went into it.

A step writes into a temporary folder that is renamed when it is complete, so a folder under its final name is never
half done. A cycle that is killed and run again finds the steps it had finished and goes on at the one it lost.

    datasets/STEP-HASH/manifest.json    what went in, what came out, how long it took
    runs/ID/run.json                    one cycle: pinned table version, steps, timings, outcome
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from cluster import durable
from cluster.records import Frozen, Move, Verdict
from cluster.settings import Settings
from pipelines.recipe import Recipe

ATTEMPTS = 3
"""How often an unfinished run is taken up again before a new one starts from the newest table."""


class TooLittle(ValueError):
    """There is nothing to decide yet: the cycle ends without a candidate, and that is no failure."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def step(state: Path, name: str, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder that `make` fills from `inputs`; made only if it is not there yet.

    `make` gets an empty folder and returns what `manifest.json` shall say about the output. `inputs` must hold
    everything that the output depends on, with a constant that is raised when the step's code changes its meaning.
    """
    folder = state / "datasets" / f"{name}-{digest(inputs)[:16]}"
    if (folder / "manifest.json").exists():
        return folder
    # The lock on cycles makes us the only one at work here: what lies under the temporary name is a dead run's.
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    started = time.time()
    result = make(temporary)
    manifest = {**result, "step": name, "inputs": inputs, "made": started, "took_s": round(time.time() - started, 3)}
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
    durable.sync_tree(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    durable.sync_folder(folder.parent)
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


class StepRecord(Frozen):
    """One step of a run."""

    state: Literal["running", "done", "failed"]
    started: float
    seconds: float | None = None
    reused: bool = False
    """Found finished, from this run's earlier attempt or from another run with the same inputs."""
    folder: str | None = None


class RunRecord(Frozen):
    """`runs/ID/run.json`: one cycle, from its start to its verdict."""

    id: str
    alias: str
    recipe: str
    recipe_digest: str
    started: float
    finished: float | None = None
    state: Literal["running", "done", "failed"] = "running"
    outcome: str | None = None
    """`canary`, `promoted`, `rejected`, or the sentence that says why there was nothing to decide."""
    attempts: int = 1
    resumable: bool = True
    table_version: int | None = None
    newest: float | None = None
    """Time of the newest feedback that the pinned table holds: the wheel counts what came since."""
    process: int
    host: str
    job: str | None = None
    """Ray job that carries this cycle."""
    steps: dict[str, StepRecord] = {}
    timings_s: dict[str, float] = {}
    moves: list[Move] = []
    """How its training made way for serving, the last ones."""
    candidate: str | None = None
    verdict: Verdict | None = None
    error: str | None = None


class Run:
    """One cycle under way: what the steps get handed, and the record of what is done."""

    def __init__(
        self, settings: Settings, recipe: Recipe, record: RunRecord, say: Callable[[str], None] | None = None
    ) -> None:
        self.settings = settings
        self.recipe = recipe
        self.record = record
        self.say = say or (lambda line: print(line, file=sys.stdout, flush=True))
        self._save()

    @property
    def state(self) -> Path:
        return self.settings.state

    @property
    def folder(self) -> Path:
        return self.state / "runs" / self.record.id

    @classmethod
    def open(
        cls,
        settings: Settings,
        recipe: Recipe,
        name: str,
        job: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Run:
        """Go on with the unfinished run of the same recipe, pinned as it was, or begin a new one."""
        last = next((run for run in reversed(runs(settings.state)) if run.recipe_digest == recipe.digest), None)
        if last and unfinished(last):
            again = {"attempts": last.attempts + 1, "state": "running", "error": None, "finished": None}
            record = last.model_copy(update=again)
        else:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
            record = RunRecord(
                id=f"{stamp}-{secrets.token_hex(2)}",
                alias=recipe.alias,
                recipe=name,
                recipe_digest=recipe.digest,
                started=time.time(),
                process=os.getpid(),
                host=socket.gethostname(),
            )
        here = {"process": os.getpid(), "host": socket.gethostname(), "job": job}
        return cls(settings, recipe, record.model_copy(update=here), say)

    def step(self, name: str, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> Path:
        """`step` within this run: timed, and written into its record."""
        expected = self.state / "datasets" / f"{name}-{digest(inputs)[:16]}"
        reused, before = (expected / "manifest.json").exists(), self.record.timings_s.get(name)
        with self.timed(name):
            folder = step(self.state, name, inputs, make)
        self._step(name, folder=str(folder.relative_to(self.state)), reused=reused)
        if reused:
            self.update(timings_s={**self.record.timings_s, name: before or manifest(folder)["took_s"]})
            self.say(f"{name:<10}   reused    {folder.relative_to(self.state)}")
        return folder

    def report(self, name: str, line: str) -> None:
        """One line on the screen for a step that is done."""
        self.say(f"{name:<10}{self.record.timings_s.get(name, 0):7.1f} s   {line}")

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a stretch of the run under a name; a failure in it is recorded and goes on up."""
        started = time.time()
        self._step(name, state="running", started=started)
        try:
            yield
        except BaseException:
            self._step(name, state="failed", seconds=round(time.time() - started, 3))
            raise
        seconds = round(time.time() - started, 3)
        self._step(name, state="done", seconds=seconds)
        self.update(timings_s={**self.record.timings_s, name: seconds})

    def update(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        self._save()

    def _step(self, name: str, **changes: Any) -> None:
        before = self.record.steps.get(name)
        after = before.model_copy(update=changes) if before else StepRecord(**changes)
        self.update(steps={**self.record.steps, name: after})

    def _save(self) -> None:
        durable.make_folder(self.folder)
        durable.replace(self.folder / "run.json", self.record.model_dump_json(indent=1).encode())


def runs(state: Path, last: int | None = None) -> list[RunRecord]:
    """The last runs (None: all), oldest first. Ids begin with the time, so their order is the runs'."""
    files = sorted((state / "runs").glob("*/run.json"))[-last if last else None :]
    return sorted(
        (RunRecord.model_validate_json(file.read_text()) for file in files), key=lambda run: (run.started, run.id)
    )


@contextlib.contextmanager
def only_cycle(state: Path, patience_s: float = 2.0) -> Iterator[None]:
    """Hold the lock on cycles. The kernel drops it when its holder dies, however it dies.

    Raises `ValueError` when another cycle is at work. The patience is for those who only look (`cycle_running`).
    """
    path = state / "runs" / "lock"
    durable.make_folder(path.parent)
    deadline = time.monotonic() + patience_s
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "just starting"
                    raise ValueError(f"a cycle is running already ({holder}); wait for its end") from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def cycle_running(state: Path) -> bool:
    """Whether some process holds the lock on cycles. The question takes a shared lock, for a moment."""
    path = state / "runs" / "lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def unfinished(run: RunRecord) -> bool:
    """Whether a run can be taken up again: killed, or failed at something that may be over by now."""
    return run.state != "done" and run.resumable and run.attempts < ATTEMPTS
