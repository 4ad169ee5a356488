"""When a training step happens and what is in it: the clock that the learning rate follows, and the plan of batches.

Plain Python: the seed fixes the plan, and the clock is told the time.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pipelines.recipe import TrainingSettings

if TYPE_CHECKING:
    from pipelines.packing import Example

WARM_UP = 0.05
"""Share of the schedule in which the learning rate rises."""
LOG_EVERY_S = 5.0


@dataclass
class Clock:
    """How far the training is: in steps or in seconds, whichever runs out first.

    The schedule follows progress, not the step's number: a machine that slows down in the middle, because somebody is
    being served, still ends in time and with a learning rate of zero.
    """

    steps: int
    seconds: float | None
    step: int = 0
    elapsed_s: float = 0.0
    """Seconds of training, earlier attempts up to their checkpoint included."""
    _logged_s: float = 0.0
    _saved_s: float = 0.0

    def start(self, step: int, elapsed_s: float) -> None:
        self.step, self.elapsed_s, self._logged_s, self._saved_s = step, elapsed_s, elapsed_s, elapsed_s

    def tick(self, step: int, elapsed_s: float) -> None:
        self.step, self.elapsed_s = step, elapsed_s

    @property
    def progress(self) -> float:
        """From 0 to 1, where training ends."""
        by_time = self.elapsed_s / self.seconds if self.seconds else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    @property
    def left_s(self) -> float:
        return self.elapsed_s * (1 - self.progress) / self.progress if self.progress else math.inf

    def rate(self) -> float:
        """The next step's learning rate as a share of the peak: a linear rise, then a cosine down to zero."""
        at = max(self.progress, 1 / (2 * self.steps))
        return at / WARM_UP if at < WARM_UP else 0.5 * (1 + math.cos(math.pi * (at - WARM_UP) / (1 - WARM_UP)))

    def log_due(self) -> bool:
        due = self.progress == 1 or self.step == 1 or self.elapsed_s - self._logged_s >= LOG_EVERY_S
        self._logged_s = self.elapsed_s if due else self._logged_s
        return due

    def save_due(self, every_s: float) -> bool:
        due = self.progress < 1 and self.elapsed_s - self._saved_s >= every_s
        self._saved_s = self.elapsed_s if due else self._saved_s
        return due


class Batches:
    """The first `count` micro-batches of one pass over the rows after the other, each made when it is come to.

    A pass takes seconds for thousands of rows, and a training that ends in its seconds never comes to most of them.
    `passes` gives one by its number, and should remember two: one is asked for its last batches while the next one has
    begun.
    """

    def __init__(self, passes: Callable[[int], list[list]], count: int) -> None:
        self._passes, self._count = passes, count
        self._starts = [0]
        """First batch of each pass that has been come to, and of the one after."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list]:
        return (self[number] for number in range(self._count))

    def __getitem__(self, number: int) -> list:
        if not 0 <= number < self._count:
            raise IndexError(number)
        while number >= self._starts[-1]:
            self._starts.append(self._starts[-1] + len(self._passes(len(self._starts) - 1)))
        at = bisect_right(self._starts, number) - 1
        return self._passes(at)[number - self._starts[at]]


@dataclass(frozen=True)
class Plan:
    """Which rows go into which micro-batch, for all epochs."""

    batches: Batches
    """Of packs or, where these cannot be, of examples."""
    packed: bool
    steps: int
    accumulate: int
    """Micro-batches of one step, all workers together."""
    epochs: float
    """Passes over the rows."""
    tokens: int
    """Tokens of one epoch as they are computed: a pack counts its shared prefix once."""
    plain_tokens: int
    """Tokens of one epoch if every row stood alone."""

    @classmethod
    def make(
        cls,
        examples: list[Example],
        settings: TrainingSettings,
        packed: bool,
        vary: Callable[[int], list[Example]] | None = None,
    ) -> Plan:
        """Shuffled and packed anew for each epoch; micro-batches of about `pack_tokens`, steps of `batch_tokens`.

        The plan is that of `settings.workers`, which share a step's micro-batches. Fewer may do the same steps.
        `vary` gives the rows of an epoch (from 0); left out, all are the same.
        """
        workers = settings.workers
        share = max(1, settings.batch_tokens // workers)
        size = settings.pack_tokens or max(share, 5 * sorted(map(len, examples))[len(examples) // 2])

        @lru_cache(maxsize=2)
        def batches(epoch: int) -> list[list]:
            return _batches(vary(epoch) if vary else examples, size, packed, f"{settings.seed}-{epoch}")

        first = batches(0)
        tokens = sum(len(sequence) for batch in first for sequence in batch)
        accumulate = workers * max(1, round(settings.batch_tokens * len(first) / tokens / workers))
        epochs = max(settings.epochs, settings.min_steps * accumulate / len(first))
        steps = min(max(1, round(epochs * len(first) / accumulate)), settings.max_steps or 10**9)
        needed = steps * accumulate  # the last step is full, if with rows of one more pass
        plain = sum(len(example) for example in examples)
        epochs = needed / len(first)
        return cls(Batches(batches, needed), packed, steps, accumulate, epochs, tokens, plain)

    @property
    def tokens_per_batch(self) -> float:
        return self.tokens * self.epochs / len(self.batches)

    def rows(self, batch: int) -> list[str]:
        """Ids of the rows in a micro-batch."""
        return [row for sequence in self.batches[batch] for row in sequence.row_ids]

    def __str__(self) -> str:
        how = f"packed {self.plain_tokens / self.tokens:.1f} times" if self.packed else "not packed"
        return f"{self.tokens} tokens in an epoch, {how}; at most {self.steps} steps"


def _batches(examples: list[Example], size: int, packed: bool, seed: str) -> list[list]:
    """Sequences, grouped so that they take at most `size` tokens with their padding; longer ones stand alone."""
    from pipelines import packing

    order = random.Random(seed)
    shuffled = order.sample(examples, len(examples))
    short = [example for example in shuffled if len(example) <= size]
    long = [example for example in shuffled if len(example) > size]
    sequences: list = shuffled
    if packed:
        sequences = packing.pack(short, size) + [p for e in long for p in packing.pack([e], len(e))]
    batches: list[list] = []
    for sequence in sorted(sequences, key=len):  # equal lengths together; a stable sort of a shuffled list
        if batches and len(sequence) * (len(batches[-1]) + 1) <= size:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    order.shuffle(batches)
    return batches
