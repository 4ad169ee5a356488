"""The ways to learn from a dataset, a file each: `training.method` in the recipe names the file.

A method's `prepare` says what the common loop (`pipelines/trainer.py`) shall run: which of TRL's trainers, on what.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipelines.artifacts import Row
from pipelines.recipe import EvaluationSettings, TrainingSettings


@dataclass(frozen=True)
class Task:
    """What a worker has at hand when its method prepares."""

    rows: list[Row]
    tokenizer: Any
    model: Any
    """Trainable already: with its adapter, if that is what is trained."""
    training: TrainingSettings
    workers: int
    cpu: bool
    alias: str
    base: str
    evaluation: EvaluationSettings
    """How answers are asked for and scored, where a method needs some."""
    say: Callable[[str], None]

    @property
    def pad(self) -> int:
        """Token id that fills up short sequences."""
        known = self.tokenizer.pad_token_id
        return known if known is not None else self.tokenizer.eos_token_id


@dataclass(frozen=True)
class Work:
    """What the loop runs."""

    trainer: type
    """One of TRL's trainers, or a child of it."""
    arguments: type
    """Its class of arguments."""
    settings: dict[str, Any]
    """Values for that class beside the loop's own."""
    options: dict[str, Any]
    """What the trainer takes beside model, arguments, tokenizer and callbacks."""
    steps: int
    accumulate: int
    """Micro-batches of one step on one worker."""
    tokens: float
    """Tokens of one step, padding aside."""
    rows_of: Callable[[int], list[str]]
    """Ids of the rows in a micro-batch, by its place among those of all workers."""
    summary: str
    """One line for the user."""
    epochs: float
    metrics: dict[str, float] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    """What of the trainer's own logs goes into the history beside loss and speed."""


class Method(Protocol):
    def prepare(self, task: Task) -> Work:
        """Raises `ValueError` if no row can be trained on."""


def find(name: str) -> Method:
    """The method of that name; the recipe has checked that there is one."""
    return importlib.import_module(f"{__name__}.{name}")  # type: ignore[return-value]
