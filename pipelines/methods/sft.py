"""Supervised fine-tuning: each row's answer (of a run: each of its turns), given what came before. TRL's `SFTTrainer`,
fed with packs.

Shapes: B sequences of a micro-batch, T tokens of each, K positions with a label, V vocabulary.
"""

from __future__ import annotations

import inspect
from itertools import chain
from typing import Any

import torch.nn.functional as F
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from pipelines import attention, packing, prompt
from pipelines.artifacts import Row
from pipelines.mentions import Mentions
from pipelines.methods import Task, Work
from pipelines.schedule import Plan


def prepare(task: Task) -> Work:
    training, rows = task.training, task.rows

    def encode(row: Row) -> list[packing.Example]:
        return prompt.encode_turns(task.tokenizer, row, training.max_tokens)

    examples = [encode(row) for row in rows]
    mentions = Mentions(rows)

    def varied(row: Row, old: Row, known: list[packing.Example]) -> list[packing.Example]:
        turns = known if row is old else encode(row)
        _, long = packing.fitting(turns, training.max_tokens)
        return known if long else turns  # with its own words

    def vary(epoch: int) -> list[packing.Example]:
        mixture = mentions.mixture(rows, training.mention_replacement, f"{training.seed}-{epoch}")
        turns = chain.from_iterable(map(varied, mixture, rows, examples))
        return packing.fitting(list(turns), training.max_tokens)[0]

    return on_examples(task, list(chain.from_iterable(examples)), vary if training.mention_replacement else None)


def on_examples(task: Task, examples: list[packing.Example], vary: Any = None) -> Work:
    """Work on tokens whose loss is that of their answers."""
    training = task.training
    fitting, long = packing.fitting(examples, training.max_tokens)
    if not fitting:
        raise ValueError(
            f"none of {len(examples)} rows has at most {training.max_tokens} tokens; raise training.max_tokens"
        )
    refusal = attention.take_packs(task.model, fitting, task.pad) if training.packing else "training.packing is off"
    if refusal:
        task.say(f"{refusal}: training on plain rows")
    form = packing.pad if refusal else packing.collate
    plan = Plan.make(fitting, training, refusal is None, vary)
    base = getattr(task.model, "get_base_model", lambda: task.model)()
    return Work(
        trainer=Finetune,
        arguments=SFTConfig,
        settings={"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None},
        options={
            "train_dataset": Dataset.from_dict({"batch": list(range(len(plan.batches)))}),
            "data_collator": lambda items: form(plan.batches[items[0]["batch"]], task.pad),
            "compact": task.cpu and "logits_to_keep" in inspect.signature(base.forward).parameters,
        },
        steps=plan.steps,
        accumulate=plan.accumulate // task.workers,
        tokens=plan.tokens_per_batch * plan.accumulate,
        rows_of=plan.rows,
        summary=f"{len(fitting)} rows ({long} too long), {plan}",
        metrics={"packing": round(plan.plain_tokens / plan.tokens, 2), "rows_too_long": long},
        epochs=plan.epochs,
    )


class Finetune(SFTTrainer):
    """TRL's trainer with a loss that is quick on CPUs."""

    def __init__(self, compact: bool, **arguments: Any) -> None:
        self._compact = compact
        super().__init__(**arguments)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self._compact or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # On CPUs TRL's fused head projects every position, labelled or not, which takes as long as the rest of a small
        # model's step (0.5 s for 4,096 tokens). The labelled ones alone take 0.01 s.
        targets_BT = inputs["labels"][:, 1:]
        keep_K = (targets_BT != packing.IGNORE).any(0).nonzero()[:, 0]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        logits_BKV = model(**inputs, logits_to_keep=keep_K, use_cache=False).logits.float()
        targets_BK = targets_BT[:, keep_K]
        loss = F.cross_entropy(
            logits_BKV.flatten(0, 1), targets_BK.flatten(), ignore_index=packing.IGNORE, reduction="sum"
        )
        # As in TRL: the count is that of all ranks, and their gradients are averaged.
        return loss * self.accelerator.num_processes / num_items_in_batch
