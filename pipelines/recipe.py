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
METHODS = Path(__file__).parent / "methods"


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


class RunSettings(Strict):
    """What is learnt from agents' runs that were rewarded."""

    learn: Literal["trajectories", "preferences", "nothing"] = "trajectories"
    """`trajectories`: what the model said in runs that went well; `preferences`, for the method `dpo`: where runs of
    one task went apart, the turn that led to more rather than the one that led to less. With `nothing`, answers within
    runs are taken one by one, by their feedback alone."""
    min_reward: float = Field(default=0.75, ge=0, le=1)
    """A run went well with at least this reward."""
    min_gap: float = Field(default=0.5, gt=0, le=1)
    """Difference of the mean rewards behind two turns from which one is preferred."""
    sources: tuple[str, ...] = ("environment", "checker", "user", "judge")
    """Sources of rewards, most trusted first; the first that spoke is believed. Feedback on an answer of a run is a
    reward of its source. Sources not named come after these, the latest first."""
    max_runs: int = Field(default=20_000, ge=1)
    """The newest so many rewarded runs."""


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
    runs: RunSettings = RunSettings()
    holdout: HoldoutSettings = HoldoutSettings()
    replay: ReplaySettings = ReplaySettings()


class DpoSettings(Strict):
    """Direct preference optimization: Rafailov et al., 2023 (https://arxiv.org/abs/2305.18290)."""

    beta: float = Field(default=0.1, gt=0)
    """How hard the model is held to where it started."""
    sft: float = Field(default=1.0, ge=0)
    """Weight of the chosen answer's own loss beside that of the pair. Without it both answers of a pair may become
    unlikely together: Pang et al., 2024 (https://arxiv.org/abs/2404.19733)."""


class GrpoSettings(Strict):
    """Group relative policy optimization: Shao et al., 2024 (https://arxiv.org/abs/2402.03300)."""

    generations: int = Field(default=8, ge=2)
    """Answers to one prompt, compared with each other."""
    prompts: int = Field(default=8, ge=1)
    """Prompts of a step, all workers together."""
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.0, ge=0)
    """How hard the model is held to where it started; above 0 its first weights are asked as well."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest answer in tokens."""


class TrainingSettings(Strict):
    """How a candidate is made.

    Where `max_seconds` is None the same rows, recipe and machine give the same weights. With it the number of steps
    depends on the machine's speed; the version's metrics say how many there were.
    """

    method: str = "sft"
    """What is learnt from a row, a file of `pipelines/methods`: `sft`, its answer; `dpo`, that rather than the answer
    that it corrects; `grpo`, whatever the scorer rewards; `pretrain`, documents."""
    weights: Literal["lora", "full"] = "lora"
    """What is trained: an adapter beside the base, or all of the base's weights."""
    model: str | None = None
    """Folder or Hugging Face id of the weights to tune; left out: what the deployment serves as the alias's base."""
    start: Literal["base", "parent", "scratch"] = "base"
    """`base`: every candidate is trained from the base on all rows of the window. It depends on its dataset and recipe
    alone, and no cycle inherits another's mistakes. `parent`: go on from the champion's weights, which is cheaper for
    large windows but drifts; without weights of the same form and rank it starts from the base. `scratch`: from random
    weights in the base's shape, with its tokenizer."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What is multiplied in; `auto`: bf16 where the hardware has instructions for it."""
    parallel: Literal["ddp", "fsdp2", "zero1", "zero2", "zero3"] = "ddp"
    """How workers share the work: each holds all of the weights (`ddp`), or a share of optimizer states (`zero1`), of
    gradients too (`zero2`), of weights too (`zero3`: DeepSpeed; `fsdp2`: PyTorch). Sharded on CPUs, all is fp32."""
    offload: bool = False
    """Keep what is sharded in the host's memory (`fsdp2`, `zero2`, `zero3`)."""
    packing: bool = True
    """Rows behind one copy of the tools that they share, where the model's attention allows; else padded."""
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
    """Tokens in one optimizer step of all workers, shared prefixes counted once."""
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
    many as `workers`. It divides `workers`, so that fewer workers take more rows each and every step stays the same.
    What workers share out (`parallel`) only as many of them can take up again: then it is 0 or all."""
    sharing: Sharing = Sharing()
    """How they make way for serving."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: GPUs if as many are free as there are workers."""
    seed: int = 0
    dpo: DpoSettings = DpoSettings()
    grpo: GrpoSettings = GrpoSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = sorted(file.stem for file in METHODS.glob("[a-z]*.py"))
        if self.method not in known:
            raise ValueError(f"there is no training.method {self.method}; there is: {', '.join(known)}")
        if self.pack_tokens and self.pack_tokens > self.batch_tokens:
            raise ValueError(
                f"a pack of {self.pack_tokens} tokens does not fit into a step of {self.batch_tokens}; "
                "raise training.batch_tokens or lower training.pack_tokens"
            )
        if self.weights == "lora" and self.start == "scratch":
            raise ValueError("an adapter has no use for random weights; set training.weights to full")
        if self.method == "grpo" and self.weights == "full":
            raise ValueError("grpo asks the served model, which takes up adapters only; set training.weights to lora")
        if self.offload and self.parallel in ("ddp", "zero1"):
            raise ValueError(
                f"{self.parallel} offloads nothing; leave training.offload out, or use fsdp2, zero2, zero3"
            )
        if self.least > self.workers or (self.least and self.workers % self.least):
            raise ValueError(f"min_workers is 0 or divides workers, and {self.least} does not divide {self.workers}")
        if self.parallel != "ddp" and self.least not in (0, self.workers):
            raise ValueError(
                f"a checkpoint of {self.parallel} is taken up by as many workers as left it; "
                f"min_workers is 0 or {self.workers} there"
            )
        return self

    @property
    def least(self) -> int:
        """Workers that are left in any case."""
        return self.workers if self.min_workers is None else self.min_workers


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
    """`tool_call`, `json`, `exact`, `judge`, `likelihood` (of documents), or `module:function`."""
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

    margin: float = Field(default=0.0, ge=-1)
    """The gain's lower confidence bound must lie above this. Below 0 a candidate may be worse by so much: where the
    holdout cannot show what is better, and the canary's live traffic decides."""
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


class DocumentSettings(Strict):
    """Documents to pre-train on, in place of the log's rows."""

    path: str
    """Files of JSON lines (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`) or Parquet with one document each, in the form of open
    corpora such as RedPajama; may have `*` in it, and is read where the cycle runs."""
    field: str = "text"
    """Column that holds the text."""
    source: str | None = "source"
    """Column that says where a document comes from; each is measured by itself. Without it, all are one."""
    limit: int | None = Field(default=None, ge=1)
    """Documents at most, the first ones."""
    holdout: int = Field(default=64, ge=1)
    """Documents that are only measured on, drawn by their contents; at most a tenth of all."""


class Recipe(Strict):
    """One cycle's settings."""

    alias: str = "assistant"
    """Whose records are read, and what a promoted candidate answers for."""
    documents: DocumentSettings | None = None
    """What `pretrain` reads."""
    window: WindowSettings = WindowSettings()
    curation: CurationSettings = CurationSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.training.method == "pretrain") != (self.documents is not None):
            raise ValueError("the method pretrain reads documents, and it alone: set both, or neither")
        if (self.evaluation.scorer == "likelihood") != (self.documents is not None):
            raise ValueError("the scorer likelihood measures documents, and it alone does; set both, or neither")
        return self

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
