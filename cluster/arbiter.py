"""Who gets a machine: training takes what serving does not need, and gives it back at once.

Pure: what is known goes in, a decision with its reason comes out. A training worker asks between two layers of its
model (may it go on, shall it pause), its driver twice a second (shall it have fewer workers, or more).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cluster.pressure import Load
from cluster.settings import Strict

NOTHING = Load()


class Sharing(Strict):
    """How training shares machines with serving."""

    pause: Literal["auto", "always", "never"] = "auto"
    """Whether workers stand still while requests are answered on their machine. `auto`: on CPUs, which both use; a GPU
    that training has is its own."""
    quiet_s: float = Field(default=0.1, ge=0)
    """Serving has had nothing to do for so long before a worker goes on."""
    least_share: float = Field(default=0.25, ge=0, le=1)
    """Of the time, a worker goes on all the same, behind serving in priority: where requests never pause, training
    would never end. Measured over some minutes, so bursts do not come to feel it."""
    shrink_after_s: float = Field(default=120, gt=0)
    """Serving that has been busy for so long without a pause gets the workers' memory and processors too, down to
    `min_workers`: they leave a checkpoint."""
    slow_ttft: float = Field(default=2.0, gt=1)
    """So many times the usual time to the first token count as serving that is pressed, where workers do not pause."""
    calm_s: float = Field(default=5, ge=0)
    """Serving has had nothing to do for so long before training grows: to start a worker takes more than that ..."""
    settle_s: float = Field(default=30, ge=0)
    """... and so long since it last shrank, so that it does not go back and forth."""


@dataclass(frozen=True)
class State:
    """What a decision rests on."""

    workers: int
    """That train now."""
    least: int
    most: int
    load: Load = NOTHING
    """Of the machine of whoever asks."""
    pauses: bool = True
    """Whether workers stand still while requests are answered."""
    pressed_s: float = 0.0
    """How long serving has been busy without a pause, or slower than usual."""
    share: float = 1.0
    """Of the last minutes, that the worker has trained for."""
    wanted: str | None = None
    """What serving asks the cluster for and does not find: more replicas, in words."""
    fitting: int = 0
    """Workers for which there is room, those that train now included."""
    moved_s: float = float("inf")
    """Since it last shrank."""
    whole: bool = False
    """Only all of them, or none, can go on from a checkpoint."""


@dataclass(frozen=True)
class Keep:
    reason: str


@dataclass(frozen=True)
class Pause:
    reason: str


@dataclass(frozen=True)
class Shrink:
    workers: int
    """Left then."""
    reason: str


@dataclass(frozen=True)
class Grow:
    workers: int
    """Then."""
    reason: str


def decide(state: State, settings: Sharing) -> Keep | Pause | Shrink | Grow:
    """What training does next, and why."""
    if state.wanted and state.workers > state.least:
        return Shrink(state.least, f"serving asks for {state.wanted}")
    if state.workers and (why := pressed(state, settings)):
        if state.pressed_s >= settings.shrink_after_s and state.workers > state.least:
            return Shrink(state.least, f"serving has been busy for {state.pressed_s:.0f} s: {why}")
        if not state.pauses:
            return Keep(f"{why}; a worker's GPU is its own")
        if state.share < settings.least_share:
            return Keep(f"{why}, but training has had {state.share:.0%} of the time only")
        return Pause(why)
    return _room(state, settings)


def pressed(state: State, settings: Sharing) -> str | None:
    """Why serving needs its machine for itself now; None if it does not."""
    load = state.load
    if state.pauses:
        if load.in_flight:
            return f"{load.in_flight} {'request' if load.in_flight == 1 else 'requests'} under way"
        return "more requests may come" if load.quiet_s < settings.quiet_s else None
    now, usual = max(load.ttft_s or 0.0, load.oldest_wait_s), load.usual_ttft_s
    if load.in_flight and usual and now > settings.slow_ttft * usual:
        return f"the first token takes {now * 1000:.0f} ms instead of {usual * 1000:.0f} ms"
    return None


def _room(state: State, settings: Sharing) -> Keep | Grow:
    """Serving is calm: is there room for more workers?"""
    workers = divisor(state.most, state.fitting) if not state.whole or state.fitting >= state.most else 0
    if state.workers == state.most:
        return Keep("serving is calm")
    if state.wanted:
        return Keep(f"serving asks for {state.wanted}")
    if workers <= state.workers or workers < state.least:
        return Keep(f"there is room for {state.fitting} of {state.most} workers")
    if state.moved_s < settings.settle_s:
        return Keep(f"it shrank {state.moved_s:.0f} s ago")
    if pressed(state, settings) or (state.pauses and state.load.quiet_s < settings.calm_s):
        return Keep("serving has been busy just now")
    return Grow(workers, f"serving is calm and there is room for {workers} of {state.most} workers")


def divisor(most: int, fitting: int) -> int:
    """The largest number of workers that `fitting` has room for and that divides `most`: with fewer workers each takes
    so many times more of a step's rows, and the step stays the same."""
    return next((workers for workers in range(min(most, fitting), 0, -1) if most % workers == 0), 0)
