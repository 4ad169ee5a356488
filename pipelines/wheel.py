"""It turns by itself: a deployment that watches the log and starts a cycle when there is something to learn.

`decide` is pure: what is known goes in, Start or Wait comes out, each with its reason. `Wheel` is the place that acts:
every few seconds it compacts the log, looks, decides, and submits the cycle as a Ray job. Whatever it must remember is
under state (the switch, the runs) or with Ray (the job), so a wheel that dies is replaced by one that goes on.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import Field
from ray import serve

from cluster import durable, telemetry
from cluster.admin import ON_HEAD, admin_api
from cluster.decisions import Rollout, fold, read
from cluster.log import Log, nodes
from cluster.priority import give_way
from cluster.settings import Settings, Strict
from pipelines.freshness import Fresh, fresh
from pipelines.job import Jobs
from pipelines.recipe import Recipe, find
from pipelines.steps import RunRecord, cycle_running, runs, unfinished

logger = logging.getLogger(__name__)

RETAIN_EVERY_S = 3600.0
REMEMBERED = 50
"""Runs that are looked at: enough to find the last that came to its end."""


class WheelSettings(Strict):
    """When a cycle is worth its cost. The wheel's `args` in `services/serve.yaml`."""

    recipe: str = "default"
    """What a cycle does: a shipped recipe's name or a file."""
    min_feedback: int = Field(default=300, ge=1)
    """Answers with fresh feedback that start a cycle."""
    max_age_s: float = Field(default=6 * 3600, gt=0)
    """Feedback does not wait longer than this, if there are at least `min_aged`."""
    min_aged: int = Field(default=64, ge=1)
    settle_s: float = Field(default=5, ge=0)
    """While feedback pours in, one cycle on all of it is better than two on halves: wait until it pauses so long ..."""
    settle_most_s: float = Field(default=300, ge=0)
    """... but no longer than this once there is enough."""
    score_window: int = Field(default=200, ge=10)
    """Feedback entries over which the live score is averaged."""
    score_drop: float = Field(default=0.1, gt=0)
    """A live score that fell by more than this between two windows starts a cycle, if there are `min_aged`."""
    retry_s: float = Field(default=30, gt=0)
    """Pause after a failed cycle; doubles with every further failure, up to an hour."""
    look_every_s: float = Field(default=2, gt=0)
    compact_every_s: float = Field(default=30, gt=0)
    """Longest that an entry waits outside the table while more come in."""


# Deciding: pure


@dataclass(frozen=True)
class WheelState:
    """What a decision rests on. Times are ages in seconds."""

    on: bool = True
    running: str | None = None
    """The job or process that is at a cycle now."""
    unfinished: str | None = None
    """A run that was killed or failed and can go on."""
    canary: str | None = None
    """A version that live traffic is just judging."""
    failures: int = 0
    """Failed attempts since the last cycle that came to an end."""
    ended_s: float = float("inf")
    """Since the last attempt ended."""
    fresh: int = 0
    """Answers with feedback that no cycle has seen."""
    oldest_s: float = 0
    """Age of the oldest fresh feedback."""
    enough_s: float = 0
    """How long ago there was enough of it; 0 if there is not."""
    newest_s: float = float("inf")
    """Age of the newest feedback."""
    recent_score: float | None = None
    earlier_score: float | None = None


@dataclass(frozen=True)
class Start:
    reason: str


@dataclass(frozen=True)
class Wait:
    reason: str


def decide(state: WheelState, settings: WheelSettings) -> Start | Wait:
    """Whether to start a cycle now, and why (not)."""
    if not state.on:
        return Wait("switched off")
    if state.running:
        return Wait(f"a cycle is running ({state.running})")
    pause_s = min(3600.0, settings.retry_s * 2 ** (state.failures - 1)) if state.failures else 0.0
    if state.ended_s < pause_s:
        return Wait(f"the last cycle failed; trying again in {pause_s - state.ended_s:.0f} s")
    if state.canary:
        return Wait(f"{state.canary} is in its canary")
    if state.unfinished:
        return Start(f"run {state.unfinished} was not finished")
    if state.newest_s < settings.settle_s and state.enough_s < settings.settle_most_s:
        return Wait(f"feedback is coming in, {state.fresh} so far")
    if state.fresh >= settings.min_feedback:
        return Start(f"{state.fresh} answers with fresh feedback")
    if state.fresh >= settings.min_aged:
        if state.oldest_s >= settings.max_age_s:
            return Start(f"{state.fresh} answers with feedback, the oldest {state.oldest_s / 3600:.1f} hours old")
        before, now = state.earlier_score, state.recent_score
        if before is not None and now is not None and before - now > settings.score_drop:
            return Start(f"the live score fell from {before:.2f} to {now:.2f}")
    return Wait(f"{state.fresh} of {settings.min_feedback} answers with fresh feedback")


def ages(found: Fresh, last: list[RunRecord], touched: float, now: float) -> dict[str, Any]:
    """The part of a `WheelState` that comes from the log and from the runs (oldest first); `touched`: when the last
    run's record was written."""
    failed = 0
    for run in reversed(last):
        if run.state == "done":
            break
        failed += run.attempts
    return {
        "unfinished": last[-1].id if last and unfinished(last[-1]) else None,
        "failures": failed,
        "ended_s": now - touched if failed else float("inf"),
        "fresh": found.count,
        "oldest_s": now - found.oldest if found.oldest else 0.0,
        "enough_s": now - found.enough if found.enough else 0.0,
        "newest_s": now - found.newest if found.newest else float("inf"),
        "recent_score": found.recent_score,
        "earlier_score": found.earlier_score,
    }


# Acting

api = admin_api()


@serve.deployment(name="wheel", num_replicas=1, ray_actor_options={"num_cpus": 0, "resources": ON_HEAD})
@serve.ingress(api)
class Wheel:
    """Answers `/admin/wheel`, and turns in a thread of its own; on the head, whose job server is on loopback."""

    def __init__(self, settings: WheelSettings) -> None:
        self._settings = settings
        self._cluster = Settings.from_environment()
        self._state = self._cluster.state
        self._recipe = Recipe.load(find(settings.recipe))
        self._log = Log.here(self._cluster)
        self._table: int | None = None
        self._lag = 0
        self._pouring = False
        """Entries came in since the last look; the table, which is behind, does not show them yet."""
        self._compacted = self._retained = 0.0
        self._fresh: tuple[tuple[int | None, float], Fresh] | None = None
        self._jobs: Jobs | None = None
        self._job: str | None = None
        self._broken: tuple[int, float] = (0, 0.0)
        """Jobs that died before they had begun a run, and when the last one did."""
        self._reason = "looking around"
        self._rollout = Rollout()
        self._seen = WheelState(on=self._on())
        threading.Thread(target=self._turn, name="wheel", daemon=True).start()

    @api.get("/")
    def show(self) -> dict[str, Any]:
        """The switch, why it waits or turns, and the last run's record."""
        last = runs(self._state, 1)
        seen = self._seen
        return {
            "on": self._on(),
            "reason": self._reason if self._on() else "switched off",
            "recipe": self._settings.recipe,
            "fresh": seen.fresh,
            "min_feedback": self._settings.min_feedback,
            "live_score": seen.recent_score,
            "job": self._job,
            "process": os.getpid(),
            "run": last[0].model_dump(mode="json") if last else None,
        }

    @api.post("/on")
    def switch_on(self, request: Request) -> dict[str, Any]:
        return self._switch(True, request)

    @api.post("/off")
    def switch_off(self, request: Request) -> dict[str, Any]:
        """A cycle that runs comes to its end; no other one starts."""
        return self._switch(False, request)

    def _switch(self, on: bool, request: Request) -> dict[str, Any]:
        path = self._state / "wheel" / "switch.json"
        durable.make_folder(path.parent)
        said = {"on": on, "by": request.state.principal, "time": time.time()}
        durable.replace(path, json.dumps(said).encode())
        return self.show()

    def _on(self) -> bool:
        try:
            return bool(json.loads((self._state / "wheel" / "switch.json").read_text())["on"])
        except FileNotFoundError:
            return False

    def _turn(self) -> None:
        give_way()
        while True:
            try:
                self._look()
            except Exception as error:
                # A full disk, a table in repair, a job server that restarts: said, and looked at again.
                self._reason = f"cannot look: {error}"
                logger.exception("the wheel could not look")
            time.sleep(self._settings.look_every_s)

    def _look(self) -> None:
        """Compact, look, decide, act: one round."""
        self._tidy()
        if self._jobs is None:
            self._jobs = jobs = Jobs(self._cluster)
            self._job = jobs.current()  # what a wheel before us started
        jobs = self._jobs
        if self._job and jobs.status(self._job).is_terminal():
            self._ended(jobs, self._job)
        running = self._job or ("a process" if cycle_running(self._state) else None)
        self._seen = seen = self._observe(running)
        wanted = self._settings.min_feedback
        telemetry.wheel(self._recipe.alias, seen.on, seen.fresh, wanted, seen.recent_score, bool(running))
        decision = decide(self._seen, self._settings)
        self._reason = decision.reason
        if isinstance(decision, Start):
            logger.info("starting a cycle: %s", decision.reason)
            recipe = find(self._settings.recipe)
            self._job = jobs.submit(str(recipe.absolute()) if recipe.suffix else self._settings.recipe)

    def _tidy(self) -> None:
        """Compact when entries have waited long enough, or as soon as no more come; retain once an hour."""
        now, stats = time.time(), self._log.stats()
        telemetry.log(stats)
        late = now - self._compacted > self._settings.compact_every_s
        if self._cluster.log is None:
            quiet, self._lag = stats.lag_entries == self._lag, stats.lag_entries
            self._pouring = not quiet
            due = stats.lag_entries and (quiet or late)
        else:
            due = late  # what other nodes have on their disks is only known when they have compacted it
        if self._table is None or due:
            done = nodes.compact(self._cluster)
            self._table, self._compacted, self._lag = done.table_version, now, 0
            if self._cluster.log is not None:
                self._pouring = done.rows_added > 0
        if now - self._retained > RETAIN_EVERY_S:
            self._log.retain(now)
            self._retained = now

    def _observe(self, running: str | None) -> WheelState:
        now, found = time.time(), runs(self._state, REMEMBERED)
        mine = [run for run in found if run.recipe_digest == self._recipe.digest]
        pinned = [run.newest for run in found if run.alias == self._recipe.alias and run.state == "done" and run.newest]
        since = max(pinned, default=0.0)
        if self._fresh is None or self._fresh[0] != (self._table, since):
            looked = Fresh()
            if self._table is not None:
                enough, window = self._settings.min_feedback, self._settings.score_window
                looked = fresh(self._log.table_uri, self._table, self._recipe.alias, since, enough, window)
            self._fresh = (self._table, since), looked
        touched = os.stat(self._state / "runs" / mine[-1].id / "run.json").st_mtime if mine else 0.0
        seen = ages(self._fresh[1], mine, touched, now)
        broken, when = self._broken
        if broken:
            seen |= {"failures": seen["failures"] + broken, "ended_s": min(seen["ended_s"], now - when)}
        if self._pouring:
            seen["newest_s"] = 0.0
        self._rollout = fold(read(self._state, self._rollout.sequence), self._rollout)
        alias = self._rollout.aliases.get(self._recipe.alias)
        canary = alias.staged if alias and alias.canary else None
        return WheelState(on=self._on(), running=running, canary=canary, **seen)

    def _ended(self, jobs: Jobs, job: str) -> None:
        begun = any(run.job == job for run in runs(self._state, REMEMBERED))
        self._broken = (0, 0.0) if begun else (self._broken[0] + 1, time.time())
        if not begun:
            logger.error("cycle %s ended before it began: %s", job, jobs.message(job))
        self._job = None


def app(settings: WheelSettings) -> serve.Application:
    """What `services/serve.yaml` names; `args` there are the settings."""
    return Wheel.bind(settings)  # type: ignore[attr-defined]  # serve.ingress's types hide the deployment


# Serve looks at the class itself to parse `args`; postponed annotations are only its name.
app.__annotations__["settings"] = WheelSettings
