"""Direct preference optimization: what users corrected, against what they corrected it to. TRL's `DPOTrainer`.

Rows without an answer that was corrected take no part.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from pipelines import prompt
from pipelines.artifacts import Row
from pipelines.methods import Task, Work
from pipelines.packing import Example
from pipelines.schedule import Plan


def prepare(task: Task) -> Work:
    training, settings = task.training, task.training.dpo
    pairs = {row.row_id: pair(task.tokenizer, row) for row in task.rows if row.rejected}
    fitting = {name: both for name, both in pairs.items() if _length(both) <= training.max_tokens}
    if not fitting:
        raise ValueError(
            f"none of {len(task.rows)} rows has a correction beside the answer that it corrects, with at most "
            f"{training.max_tokens} tokens; dpo learns from such pairs, sft from the rest"
        )
    # As long as both answers together: that is what a pair costs.
    examples = [Example(chosen.prompt_ids, chosen.answer_ids, name) for name, (chosen, _) in fitting.items()]
    plan = Plan.make(examples, training, packed=False)
    collate = DataCollatorForPreference(pad_token_id=task.pad)

    def form(items: list[dict[str, int]]) -> dict[str, Any]:
        return collate.torch_call([_columns(fitting[row]) for row in plan.rows(items[0]["batch"])])

    return Work(
        trainer=Prefer,
        arguments=DPOConfig,
        settings={
            "beta": settings.beta,
            "loss_type": ["sigmoid", "sft"] if settings.sft else ["sigmoid"],
            "loss_weights": [1.0, settings.sft] if settings.sft else [1.0],
            "max_length": None,
        },
        options={
            "train_dataset": Dataset.from_dict({"batch": list(range(len(plan.batches)))}),
            "data_collator": form,
        },
        steps=plan.steps,
        accumulate=plan.accumulate // task.workers,
        tokens=2 * plan.tokens_per_batch * plan.accumulate,
        rows_of=plan.rows,
        summary=f"{len(fitting)} pairs of {len(task.rows)} rows ({len(pairs) - len(fitting)} too long), {plan}",
        metrics={"pairs": len(fitting), "rows_too_long": len(pairs) - len(fitting)},
        epochs=plan.epochs,
        shown=("rewards/accuracies", "rewards/margins"),
    )


def pair(tokenizer: Any, row: Row) -> tuple[Example, Example]:
    """The row's answer and the one that it corrects, behind the same prompt."""
    assert row.rejected is not None
    switches = row.options.get("chat_template_kwargs")
    given = prompt.encode(tokenizer, [*row.messages[:-1], row.rejected], row.tools, switches)
    return prompt.encode_row(tokenizer, row), given


def _length(both: tuple[Example, Example]) -> int:
    return max(map(len, both))


def _columns(both: tuple[Example, Example]) -> dict[str, list[int]]:
    chosen, given = both
    return {"prompt_ids": chosen.prompt_ids, "chosen_ids": chosen.answer_ids, "rejected_ids": given.answer_ids}


class Prefer(DPOTrainer):
    """TRL's trainer on pairs that are tokens already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset
