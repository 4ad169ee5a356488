"""A training worker makes way for serving: between two layers of its model it stands still, after a step it leaves.

Standing still is every worker's own affair: the others wait for it in their next collective call. Leaving is not: all
workers agree on it after a step, leave a checkpoint, and their driver (`elastic.py`) goes on from there.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from cluster.arbiter import Keep, Pause, Shrink, State, decide, pressed
from cluster.pressure import Node, Turn
from cluster.records import Move
from pipelines.elastic import Ground, Moves
from pipelines.recipe import TrainingSettings

LOOK_S = 0.003
"""How often a worker that stands still looks up."""
ORDERS_S = 0.1
"""How often any worker looks whether its driver wants it to leave."""
STRETCH_S = 10.0
"""Pauses that come sooner after one another count as one move."""
SHARE_S = 120.0
"""Time over which the share is measured that a worker has trained for."""


class Worker:
    """What one worker knows of serving, and what it does about it. For one thread: the one that trains."""

    def __init__(self, ground: Ground | None, training: TrainingSettings, rank: int, workers: int, gpu: bool) -> None:
        self._rules, self._least, self._most = training.sharing, training.least, training.workers
        self._workers = workers
        self._pauses = self._rules.pause == "always" or (self._rules.pause == "auto" and not gpu)
        pressure = Path(ground.pressure) if ground else None
        self._node, self._turn = Node(pressure), Turn(pressure if pressure and pressure.parent.is_dir() else None)
        self._moves = Moves(Path(ground.folder), f"worker-{rank}") if ground else None
        self._looked = self._seen = time.monotonic()
        self._pressed_since: float | None = None
        self._share = 1.0
        self._stretch: Move | None = None
        """Pauses, one soon after the other: their beginning is written down, how many they were when they are over."""
        self._before_s = self._stretch_ended = 0.0
        self.leaving: Move | None = None
        """Why this worker wants to leave."""

    @property
    def paused_s(self) -> float:
        """How long it has stood still."""
        return self._turn.paused_s

    def make_way(self) -> None:
        """Stand still for as long as serving needs this machine. Takes some 15 µs where it does not."""
        if self.leaving:
            return  # the sooner this step is over the better
        before, self._share = self._seen, self._shared(1.0)
        decision = self._decide()
        if not isinstance(decision, Pause):
            if self._stretch and before - self._stretch_ended > STRETCH_S:
                self._note(None)
            return
        self._note(decision.reason)
        self._turn.pause()
        try:
            while isinstance(decision, Pause):
                time.sleep(LOOK_S)
                self._share = self._shared(0.0)
                decision = self._decide()
        finally:
            self._turn.resume()
            self._stretch_ended = self._seen

    def trained(self, tokens: int) -> None:
        self._turn.trained(tokens)

    def close(self) -> None:
        self._note(None)
        self._turn.close()

    def _decide(self) -> Keep | Pause | Shrink:
        load = self._node.load()
        state = State(self._workers, self._least, self._workers, load=load, pauses=self._pauses, share=self._share)
        if pressed(state, self._rules):
            self._pressed_since = self._pressed_since or self._seen
        else:
            self._pressed_since = None
        pressed_s = self._seen - self._pressed_since if self._pressed_since else 0.0
        decision = decide(replace(state, pressed_s=pressed_s), self._rules)
        assert isinstance(decision, Keep | Pause | Shrink)  # it has all the workers that it knows of
        if isinstance(decision, Shrink):
            self.leaving = self._move("shrink", decision.workers, decision.reason)
        elif self._moves and self._seen - self._looked > ORDERS_S:
            self._looked, self.leaving = self._seen, self._moves.ordered()
        return Keep(self.leaving.reason) if self.leaving else decision

    def _shared(self, worked: float) -> float:
        """The share after the time since the last look, in which this worker trained (1) or stood still (0)."""
        now = time.monotonic()
        kept, self._seen = math.exp((self._seen - now) / SHARE_S), now
        return kept * self._share + (1 - kept) * worked

    def _move(self, kind: Any, workers: int, reason: str) -> Move:
        return Move(time=time.time(), kind=kind, workers=workers, most=self._most, reason=reason)

    def _note(self, reason: str | None) -> None:
        """A pause begins, within a stretch of them or as the first of one; None: the stretch is over."""
        if self._stretch:
            over = reason is None or self._seen - self._stretch_ended > STRETCH_S
            if not over:
                self._stretch = self._stretch.model_copy(update={"times": self._stretch.times + 1})
                return
            took_s = round(self.paused_s - self._before_s, 3)
            self._write(self._stretch.model_copy(update={"seconds": took_s}))
            self._stretch = None
        if reason is not None:
            self._before_s = self.paused_s
            self._stretch = self._move("pause", self._workers, reason)
            self._write(self._stretch)

    def _write(self, move: Move) -> None:
        if self._moves:
            self._moves.write(move)


class Yielding(TrainerCallback):
    """Asks the worker within each forward and backward pass, after each micro-batch and after each step.

    It comes after the callback that says when to save: what it wants of a step's end goes first.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._tokens, self._hooks = worker, 0, list[Any]()
        self.left: Move | None = None
        """Why all the workers left; None if the training came to its end."""

    @property
    def paused_s(self) -> float:
        return self._worker.paused_s

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        self._hooks = [layer.register_forward_pre_hook(self._before) for layer in layers]

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._worker.trained(self._tokens)
        self._worker.make_way()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.on_substep_end(args, state, control)
        if control.should_training_stop:
            return  # this was the last step anyway
        self.left = agreed(self._worker.leaving)
        if self.left:
            control.should_log = control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._worker.close()

    def _before(self, _: Any, inputs: tuple[Any, ...]) -> None:
        """Before a layer; and once more when the gradient of what goes into it is there."""
        self._worker.make_way()
        if inputs and isinstance(inputs[0], torch.Tensor):
            self._tokens = inputs[0].shape[:2].numel()
            if inputs[0].requires_grad:
                inputs[0].register_hook(lambda _: self._worker.make_way())


def agreed(mine: Move | None) -> Move | None:
    """The first worker's move that has one: if one wants to leave, all leave."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return mine
    wants = torch.tensor(float(mine is not None), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(wants)
    if not wants:
        return None
    moves: list[Move | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(moves, mine)
    return next(move for move in moves if move)
