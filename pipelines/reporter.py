"""What a training tells while it runs: progress to the log and to Ray Train, checkpoints, and what went wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as distributed
from ray.train import Checkpoint
from transformers import TrainerCallback

from pipelines import checkpoints, weights
from pipelines.methods import Work
from pipelines.recipe import TrainingSettings
from pipelines.schedule import Clock

NOTE = "spent.json"
UNSTABLE = (
    "the {what} was not a number any more at step {step}{rows}; lower training.learning_rate, or look at the rows"
)
NAMED = 5
"""Rows that an error names."""


@dataclass(frozen=True)
class Earlier:
    """What earlier attempts came to, up to the checkpoint that goes on."""

    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def read(cls, checkpoint: Path | None) -> Earlier:
        return cls(**json.loads((checkpoint / NOTE).read_text())) if checkpoint else cls()


class Reporter(TrainerCallback):
    """Tells the clock the time; carries progress and checkpoints to the log and to Ray Train.

    Every rank acts on the same time, so that all of them log, save and stop at the same step.
    """

    def __init__(
        self, clock: Clock, work: Work, training: TrainingSettings, earlier: Earlier, paused_s: Callable[[], float]
    ) -> None:
        self._clock, self._work, self._training, self._earlier = clock, work, training, earlier
        self._paused_s = paused_s
        self.history = earlier.history
        self.losses: list[torch.Tensor] = []
        """Of the step's micro-batches on this worker."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.start(state.global_step, self._earlier.seconds)
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Before the step: DeepSpeed sets the next learning rate within it, the others after it.
        self._clock.tick(state.global_step + 1, self._clock.elapsed_s)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        elapsed_s = self._earlier.seconds + time.monotonic() - self._started - self._paused_s()
        losses = torch.stack(self.losses)
        self.losses.clear()
        elapsed_s, healthy = _agreed(elapsed_s, bool(losses.isfinite().all()))
        if not healthy:
            raise ValueError(
                UNSTABLE.format(what="loss", step=state.global_step, rows=self._named(state.global_step, losses))
            )
        self._clock.tick(state.global_step, elapsed_s)
        control.should_training_stop = control.should_training_stop or self._clock.progress == 1
        control.should_log = self._clock.log_due()
        control.should_save = self._clock.save_due(self._training.checkpoint_every_s)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs:
            return
        seconds = max(self._clock.elapsed_s - self._earlier.seconds, 1e-9)
        entry = {
            "step": float(state.global_step),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_s": (state.global_step - self._first_step) * self._work.tokens / seconds,
            "seconds": self._clock.elapsed_s,
            "progress": self._clock.progress,
            **{name: logs[name] for name in self._work.shown if name in logs},
        }
        self.history.append(entry)
        shown = ["loss", *(name for name in self._work.shown if name in entry)]
        say(
            f"step {state.global_step} of {self._work.steps}, {self._clock.progress:.0%}: "
            f"{', '.join(f'{name} {entry[name]:.3f}' for name in shown)}, "
            f"{entry['tokens_per_s']:.0f} tokens/s, {self._clock.left_s:.0f} s to go"
        )
        ray.train.report(entry)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.check_weights(model, state.global_step)
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if args.process_index == 0:
            spent = Earlier(self._clock.elapsed_s, self.history)
            (folder / NOTE).write_text(json.dumps(vars(spent)))
        report(self.history[-1], folder)

    def check_weights(self, model: Any, step: int) -> None:
        """Raises `ValueError` if a trained weight is no number."""
        if not weights.finite(model):
            raise ValueError(UNSTABLE.format(what="model", step=step, rows=""))

    def _named(self, step: int, losses: torch.Tensor) -> str:
        """The rows of the step's micro-batches whose loss is no number, on whichever worker they were."""
        context = ray.train.get_context()
        workers, rank, count = context.get_world_size(), context.get_world_rank(), len(losses)
        mine = [
            (step - 1) * count * workers + place * workers + rank
            for place in range(count)
            if not bool(losses[place].isfinite())
        ]
        everyones: list[list[int]] = [mine]
        if workers > 1:
            everyones = [[] for _ in range(workers)]
            distributed.all_gather_object(everyones, mine)
        batches = sorted(batch for one in everyones for batch in one)
        rows = [row for batch in batches for row in self._work.rows_of(batch)]
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return f", in rows {', '.join(rows[:NAMED])}{more}"


def report(metrics: dict[str, float], folder: Path) -> None:
    """Hand a checkpoint to Ray Train, which copies it to the run's storage before it counts. All ranks take part.

    Each hands over what it has in its folder: of shared-out states each rank has its own files.
    """
    context = ray.train.get_context()
    folder.mkdir(exist_ok=True)
    checkpoints.seal(folder, context.get_world_rank(), context.get_world_size())
    ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(folder)))


def say(line: str) -> None:
    if ray.train.get_context().get_world_rank() == 0:
        print(f"train      {line}", flush=True)


def _agreed(elapsed_s: float, healthy: bool) -> tuple[float, bool]:
    """The time of the rank that has stood still the longest, and whether all ranks are healthy."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return elapsed_s, healthy
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    mine = torch.tensor([elapsed_s, float(healthy)], dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, mine)
    return min(rank[0].item() for rank in everyone), all(bool(rank[1].item()) for rank in everyone)
