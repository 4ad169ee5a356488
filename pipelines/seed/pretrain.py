"""Pre-training of the seed model through Ray Train, from nothing but the recipe.

The learning rate is warm up, stay, decay (WSD): a step's data and rate depend on the step's number and the recipe
alone, so a run cut short (`--steps`) follows the full run's curve, and a killed run resumes at its checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.settings import Strict
from pipelines.packing import Example, collate, pack
from pipelines.seed.corpus import Scene, scenes
from pipelines.seed.model import Shape, build

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"


MICRO = 4
"""Packs of one forward pass: activations of more fall out of the cache, and the allocator returns them page by page."""
ANSWER_TOKENS = 1200.0
"""A typical step's; a constant divisor keeps a step's gradient the same for any number of workers."""


class Recipe(Strict):
    """What the weights follow from (`recipe.yaml`)."""

    seed: int = 0
    steps: int = 5000
    scenes_per_step: int = 4
    """About 11 conversations of 60 tokens each, behind 50 tokens of tools."""
    pack_tokens: int = 512
    early_scenes: int = 6000
    """Over so many scenes the share of copy drills falls to its final value."""
    warmup_steps: int = 40
    decay_steps: int = 3800
    jobs_steps: int = 700
    """After those: jobs of several calls, in every other scene; from `jobs_rate` of the peak rates down again."""
    jobs_rate: float = 0.25
    matrix_rate: float = 0.02
    """Muon's learning rate, for the matrices of the layers."""
    other_rate: float = 0.003
    """AdamW's, for embeddings and norms."""
    weight_decay: float = 0.02
    shape: Shape = Shape()
    tokenizer_scenes: int = 3000

    @property
    def all_steps(self) -> int:
        return self.steps + self.jobs_steps

    def rate(self, step: int) -> float:
        """Share of the peak rates at a step: linear up, flat, linear down to 2 %; lower, the same again for jobs."""
        if step >= self.steps:
            done = step - self.steps
            up = min(1.0, (done + 1) / self.warmup_steps)
            return up * (0.02 + (self.jobs_rate - 0.02) * (1 - done / self.jobs_steps))
        up = min(1.0, (step + 1) / self.warmup_steps)
        down = min(1.0, max(0.0, (self.steps - step) / self.decay_steps))
        return up * (0.02 + 0.98 * down)


def encode_scene(tokenizer: PreTrainedTokenizerBase, scene: Scene) -> list[Example]:
    """`prompt.encode` for a scene, faster: one rendering for a row, cut at the last turn's marker."""
    marker = tokenizer.convert_tokens_to_ids("<|assistant|>")
    tools: list[Any] = list(scene.tools)
    texts: Any = tokenizer.apply_chat_template(scene.conversations, tools=tools, tokenize=False)
    examples = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
        ids = encoding.ids
        cut = len(ids) - ids[::-1].index(marker)
        examples.append(Example(ids[:cut], ids[cut:]))
    return examples


def batches(
    tokenizer: PreTrainedTokenizerBase, recipe: Recipe, first: int = 0, rank: int = 0, world: int = 1
) -> Iterator[list[dict[str, Any]]]:
    """The micro-batches of each step, from step `first` on; a worker takes every `world`-th scene."""
    late = recipe.steps * recipe.scenes_per_step
    stream = scenes(recipe.seed, first * recipe.scenes_per_step, recipe.early_scenes, late)
    while True:
        mine = list(islice(stream, recipe.scenes_per_step))[rank::world]
        examples = [e for s in mine for e in encode_scene(tokenizer, s) if len(e) <= recipe.pack_tokens]
        packs = pack(examples, recipe.pack_tokens)
        yield [collate(packs[at : at + MICRO], tokenizer.pad_token_id) for at in range(0, len(packs), MICRO)]


def answer_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Summed cross entropy of the answer tokens; the head, a fifth of the work, runs on those positions only."""
    import torch

    labels = batch["labels"][:, 1:]
    asked = labels != -100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            layout=batch["layout"],
            use_cache=False,
        )
        logits = model.lm_head(hidden.last_hidden_state[:, :-1][asked])
    return torch.nn.functional.cross_entropy(logits.float(), labels[asked], reduction="sum")


def optimizers(model: Any, recipe: Recipe) -> list[Any]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for embeddings and norms."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay, momentum=0.95)
    adam = torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def train_loop(config: dict[str, Any]) -> None:
    """One worker's loop; Ray Train calls it. `config`: recipe, stop (steps to run), out (folder), resume (bool)."""
    import torch
    from transformers import AutoTokenizer

    from pipelines import attention

    recipe, out = Recipe.model_validate(config["recipe"]), Path(config["out"])
    many = torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if many else (0, 1)
    torch.set_num_threads(config.get("threads") or max(1, (os.cpu_count() or 1) // world))
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = build(recipe.shape, recipe.seed)
    model.set_attn_implementation(attention.NAME)
    optimizing = optimizers(model, recipe)
    curve: list[dict[str, float]] = []
    start, spent = 0, 0.0
    state = out / "checkpoint.pt"
    if config.get("resume") and state.exists():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        for optimizer, saved in zip(optimizing, kept["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, curve, spent = kept["step"], kept["curve"], kept["spent_s"]
    began, tokens, totals = time.monotonic(), 0, torch.zeros(2)
    for step, micros in zip(range(start, config["stop"]), batches(tokenizer, recipe, start, rank, world), strict=False):
        for optimizer in optimizing:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * recipe.rate(step)
        for batch in micros:
            loss = answer_loss(model, batch)
            (loss / ANSWER_TOKENS).backward()
            totals += torch.tensor([loss.item(), (batch["labels"] != -100).sum()])
            tokens += batch["input_ids"].numel() * world
        if many:
            reduce_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizing:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % config["report_every"] == 0 or done == config["stop"]:
            if many:
                torch.distributed.all_reduce(totals)
            took = time.monotonic() - began
            curve.append({"step": done, "loss": round(float(totals[0] / totals[1]), 4)})
            totals.zero_()
            assert math.isfinite(curve[-1]["loss"])
            if rank == 0:
                left = took / (done - start) * (config["stop"] - done) / 60
                speed = f"{tokens / took:,.0f} tokens/s  {left:.1f} min left"
                print(f"step {done}/{config['stop']}  loss {curve[-1]['loss']:.4f}  {speed}", flush=True)
        if rank == 0 and (done % config["save_every"] == 0 or done == config["stop"]):
            total = spent + time.monotonic() - began
            fresh = {
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizing],
                "step": done,
                "curve": curve,
                "spent_s": total,
            }
            torch.save(fresh, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
            export(model, out, curve, total)


def reduce_gradients(model: Any) -> None:
    """Sum the workers' gradients in one message. Losses are scaled by a constant, so the sum is the whole batch's
    gradient."""
    import torch

    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def export(model: Any, out: Path, curve: list[dict[str, float]], spent_s: float) -> None:
    """Write the bf16 weights and what says how they came about; whoever reads meanwhile sees the old file or the
    new."""
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    config = type(model.config).from_dict(model.config.to_dict())
    config.dtype, config.architectures = torch.bfloat16, ["LlamaForCausalLM"]
    config.save_pretrained(out)
    GenerationConfig(
        do_sample=False, temperature=None, top_p=None, bos_token_id=1, eos_token_id=2, pad_token_id=0
    ).save_pretrained(out)
    tensors = {
        n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.state_dict().items() if n != "lm_head.weight"
    }
    save_file(tensors, out / "model.safetensors.new", metadata={"format": "pt"})
    (out / "model.safetensors.new").chmod(0o644)
    (out / "model.safetensors.new").replace(out / "model.safetensors")
    (out / "curve.json").write_text(json.dumps({"hours": round(spent_s / 3600, 3), "curve": curve}))


def make_tokenizer(recipe: Recipe, out: Path) -> None:
    """Train the tokenizer on the generator's text and write it to `out`."""
    from pipelines.seed.tokenizer import texts_of, train, wrap

    drawn = islice(scenes(recipe.seed + 1), recipe.tokenizer_scenes)
    wrap(train((t for s in drawn for t in texts_of(s)), recipe.shape.vocab_size)).save_pretrained(out)
