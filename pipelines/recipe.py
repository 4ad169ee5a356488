"""A recipe: everything that a cycle may be told. Frozen, strict, and light to import: no Ray, no torch.

`pipelines/recipes/default.yaml` is the one to read; it says in comments what one may want to change.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.arbiter import Sharing
from cluster.settings import Strict

RECIPES = Path(__file__).parent / "recipes"


class WindowSettings(Strict):
    """Which part of the log a cycle reads."""

    days: float = Field(default=30, gt=0)
    """How far back from the newest entry of the table, so that the same table always gives the same rows."""
    max_records: int = Field(default=100_000, ge=1)
    """The newest so many records with feedback; bounds what a cycle costs however long the log grows."""
    sources: tuple[str, ...] = ("user",)
    """Sources of feedback, most trusted first; sources not named come after these, the latest feedback first."""


class HoldoutSettings(Strict):
    """How much of the log is only measured on. Drawn by whole sessions, once for each slice, then frozen."""

    fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of a new slice's usable rows."""
    min_rows: int = Field(default=8, ge=1)
    """Fewest rows of a slice. A slice with less than four times as many usable rows waits and is not trained on:
    otherwise the champion would have seen what it is to be measured on."""
    max_rows: int = Field(default=200, ge=1)
    """Most rows of the whole holdout, shared by the slices that join (a late slice still gets `min_rows`)."""


class ReplaySettings(Strict):
    """Rows that keep the model from forgetting what it could before."""

    share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training rows, at most; 0 for none."""
    source: str | None = None
    """`seed`: the seed model's own generator; `earlier`: rows of the champion's dataset that the window no longer
    reaches; a path: JSONL with `messages` and `tools`. Left out: `seed` on the seed model, `earlier` on any other."""


class CurationSettings(Strict):
    """What is worth learning."""

    min_score: float = Field(default=0.75, ge=0, le=1)
    """An answer with at least this score is its own target."""
    scrub: tuple[Literal["email", "phone", "card", "key"], ...] = ("email", "phone", "card", "key")
    """What is replaced by a placeholder such as <EMAIL>, in prompts and targets alike."""
    near_duplicate: float = Field(default=0.85, gt=0, le=1)
    """Jaccard similarity of character 5-grams from which two prompts count as one."""
    min_rows: int = Field(default=64, ge=1)
    """Fewest training rows from the log; with less the cycle ends and says so."""
    holdout: HoldoutSettings = HoldoutSettings()
    replay: ReplaySettings = ReplaySettings()


class TrainingSettings(Strict):
    """How a candidate is made.

    Where `max_seconds` is None the same rows, recipe and machine give the same weights. With it the number of steps
    depends on the machine's speed; the version's metrics say how many there were.
    """

    method: Literal["lora"] = "lora"
    model: str | None = None
    """Folder or Hugging Face id of the weights to tune; left out: what the deployment serves as the alias's base."""
    start: Literal["base", "parent"] = "base"
    """`base`: every candidate is trained from the base on all rows of the window. It depends on its dataset and recipe
    alone, and no cycle inherits another's mistakes. `parent`: go on from the champion's adapter, which is cheaper for
    large windows but drifts; without an adapter of the same rank it starts from the base."""
    rank: int = Field(default=64, ge=1)
    """LoRA rank; at most the engine's `max_lora_rank`."""
    alpha: int = Field(default=128, gt=0)
    """LoRA scale: updates are multiplied by alpha / rank."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak: it rises over the first twentieth and falls to zero along a cosine."""
    epochs: float = Field(default=7, gt=0)
    """Passes over the training rows."""
    min_steps: int = Field(default=200, ge=0)
    """Optimizer steps at least: few rows are passed over more often."""
    mention_replacement: float = Field(default=0.9, ge=0, le=1)
    """Share of the rows that each pass changes: values that a call copies from the request become other rows' values
    in both (`mentions.py`). For models that are too small to copy well by themselves; 0 trains on rows as they are."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps at most, whatever `epochs` would give."""
    max_seconds: float | None = Field(default=450, gt=0)
    """Time for the steps at most, start-up aside. The schedule follows what runs out first, steps or time, so the
    learning rate is zero at the end either way."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Tokens in one optimizer step of one worker, shared prefixes counted once."""
    pack_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a pack: rows behind one copy of the tools that they share; left out: a step's, and at least five
    rows."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest row in tokens; longer ones are left out and counted."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory: for large models."""
    checkpoint_every_s: float = Field(default=30, gt=0)
    """What a killed training loses at most."""
    workers: int = Field(default=1, ge=1)
    """Ray Train workers."""
    min_workers: int | None = Field(default=None, ge=0)
    """Fewest that are left where serving needs their resources; 0: training waits as long as it takes; left out: as
    many as `workers`. It divides `workers`, so that fewer workers take more rows each and every step stays the same."""
    sharing: Sharing = Sharing()
    """How they make way for serving."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPUs if as many are free as there are workers."""
    seed: int = 0

    @property
    def least(self) -> int:
        return self.workers if self.min_workers is None else self.min_workers

    @model_validator(mode="after")
    def _steps_stay_the_same(self) -> Self:
        if self.least > self.workers or (self.least and self.workers % self.least):
            raise ValueError(f"min_workers is 0 or divides workers, and {self.least} does not divide {self.workers}")
        return self


class JudgeSettings(Strict):
    """The model behind the scorer `judge`: any OpenAI-compatible server."""

    base_url: str | None = None
    model: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; a recipe never does."""
    max_tokens: int = Field(default=256, ge=1)
    instructions: str = (
        "You grade an assistant's answer. You get a conversation, a reference answer and the answer to grade, as JSON. "
        'Reply with {"score": S} and nothing else: S is 1 if the answer serves the user as well as the reference, '
        "0 if it is wrong or useless, and in between where it is partly right."
    )
    """The system prompt."""


class EvaluationSettings(Strict):
    """How the holdout is replayed through the live deployment."""

    scorer: str = "tool_call"
    """`tool_call`, `json`, `exact`, `judge`, or `module:function`."""
    judge: JudgeSettings = JudgeSettings()
    concurrency: int = Field(default=8, ge=1)
    """Requests in flight, candidate and champion together."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest answer in tokens."""
    timeout_s: float = Field(default=60, gt=0)
    """For one request."""
    patience_s: float = Field(default=180, gt=0)
    """For one answer, over all its tries: a replica that was killed takes a minute to come back."""


class GateSettings(Strict):
    """When a candidate may take over."""

    margin: float = Field(default=0.0, ge=0)
    """The gain's lower confidence bound must lie above this."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """One-sided, by paired bootstrap over sessions."""
    resamples: int = Field(default=2000, ge=100)
    seed: int = 0
    """Of the bootstrap: the same scores always give the same verdict."""
    min_rows: int = Field(default=20, ge=1)
    """Fewest measured rows on which anything is decided."""
    slice_rows: int = Field(default=10, ge=1)
    """A slice with at least so many rows is judged by itself."""
    slice_tolerance: float = Field(default=0.1, ge=0)
    """How much worse one slice may be."""
    well_formed: float = Field(default=0.95, ge=0, le=1)
    """Share of the candidate's answers that must be well-formed."""


class Recipe(Strict):
    """One cycle's settings."""

    alias: str = "assistant"
    """Whose records are read, and what a promoted candidate answers for."""
    window: WindowSettings = WindowSettings()
    curation: CurationSettings = CurationSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()

    @property
    def digest(self) -> str:
        """SHA-256 of the settings, not of the file's text: comments do not make another recipe."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def find(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that is shipped. Raises `ValueError` if there is neither."""
    shipped = RECIPES / f"{name}.yaml"
    path = Path(name)
    if path.is_file() or path.suffix:
        return path
    if not shipped.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ValueError(f"there is no recipe {name}; give a YAML file, or one that is shipped: {known}")
    return shipped
