"""Group relative policy optimization: the served model answers each prompt several times, the recipe's scorer rewards,
what was rewarded more than its siblings becomes likelier. TRL's `GRPOTrainer`, with rollouts by the live deployment.

Before each step the policy becomes a version that nobody is served by, which any replica takes up when it is asked for
by name; the answers are asked as evaluations are, so they wait behind live traffic and are not logged.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as distributed
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from cluster.records import Message
from cluster.registry import Registry
from cluster.settings import Settings
from pipelines import scorers, weights
from pipelines.artifacts import Row
from pipelines.deployment import CHAT, Deployment, chat, message
from pipelines.methods import Task, Work


def prepare(task: Task) -> Work:
    training, settings = task.training, task.training.grpo
    if settings.prompts % task.workers:
        raise ValueError(
            f"{settings.prompts} prompts of a step cannot be shared by {task.workers} workers; "
            "make training.grpo.prompts a multiple of training.workers"
        )
    rows = [turn for row in task.rows if row.origin in ("log", "run") for turn in row.turns()]
    if len(rows) < settings.prompts:
        raise ValueError(
            f"a step takes {settings.prompts} prompts and there are {len(rows)} rows; lower training.grpo.prompts"
        )
    steps = max(round(training.epochs * len(rows) / settings.prompts), training.min_steps, 1)
    steps = min(steps, training.max_steps or steps)
    rollouts = Rollouts(task, rows)
    return Work(
        trainer=GRPOTrainer,
        arguments=GRPOConfig,
        settings={
            "num_generations": settings.generations,
            "per_device_train_batch_size": settings.generations,
            "max_completion_length": settings.max_tokens,
            "temperature": settings.temperature,
            "beta": settings.beta,
            "log_completions": False,
        },
        options={
            "train_dataset": Dataset.from_dict({"prompt": [str(place) for place in range(len(rows))]}),
            "reward_funcs": [rewarded],
            "rollout_func": rollouts,
        },
        steps=steps,
        accumulate=settings.prompts // task.workers,
        tokens=settings.prompts * settings.generations * settings.max_tokens,
        rows_of=lambda _: rollouts.asked,
        summary=f"{len(rows)} prompts, {settings.generations} answers to each of {settings.prompts} in a step; "
        f"at most {steps} steps",
        epochs=steps * settings.prompts / len(rows),
        shown=("reward", "completions/mean_length"),
    )


def rewarded(reward: list[float], **_: Any) -> list[float]:
    """What the rollouts have scored already."""
    return reward


class Rollouts:
    """Answers of the policy as it is now, from the deployment, with their rewards."""

    def __init__(self, task: Task, rows: list[Row]) -> None:
        self._task, self._rows = task, rows
        self._scorer = scorers.find(task.evaluation.scorer, task.evaluation.judge)
        self._settings = Settings.from_environment()
        self._registry = Registry(self._settings)
        self._round = 0
        self.asked: list[str] = []
        """Ids of the rows that were asked last."""

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """In TRL's form: one answer for each entry of `prompts`, which are places among the rows."""
        rows = [self._rows[int(place)] for place in prompts]
        self.asked = sorted({row.row_id for row in rows})
        self._round = trainer.state.global_step
        policy = self._publish(trainer)
        answers = asyncio.run(self._ask(policy, rows, trainer.accelerator.process_index))
        if distributed.is_initialized():
            distributed.barrier()
        if trainer.accelerator.is_main_process:
            self._registry.discard(policy)
        prompt_ids, completion_ids, rewards = zip(*answers, strict=True)
        return {
            "prompt_ids": list(prompt_ids),
            "completion_ids": list(completion_ids),
            "logprobs": None,  # TRL has no use for them where its own vLLM does not sample
            "reward": list(rewards),
        }

    def _publish(self, trainer: GRPOTrainer) -> str:
        """The policy as a version of its own name; the same id on all workers."""
        state, made = weights.gather(trainer), [""]
        if trainer.accelerator.is_main_process:
            with tempfile.TemporaryDirectory() as folder:
                weights.save_adapter(
                    trainer.accelerator.unwrap_model(trainer.model), state, self._task.base, Path(folder)
                )
                version = self._registry.create(
                    name=f"{self._task.alias}.policy",
                    base=self._task.base,
                    form="adapter",
                    rank=self._task.training.rank,
                    parent=None,
                    lineage=None,
                    source_folder=Path(folder),
                )
            made = [version.id]
        if distributed.is_initialized():
            distributed.broadcast_object_list(made)
        return made[0]

    async def _ask(self, policy: str, rows: list[Row], worker: int) -> list[tuple[list[int], list[int], float]]:
        deployment = Deployment(self._settings, self._task.evaluation)
        places = asyncio.Semaphore(self._task.evaluation.concurrency)

        async def one(place: int, row: Row) -> tuple[list[int], list[int], float]:
            async with places:
                return await self._answer(deployment, policy, row, (self._round * 1000 + worker) * 1000 + place)

        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(one(place, row)) for place, row in enumerate(rows)]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await deployment.close()
        return [each.result() for each in asked]

    async def _answer(
        self, deployment: Deployment, policy: str, row: Row, seed: int
    ) -> tuple[list[int], list[int], float]:
        """Tokens of prompt and answer, and the reward."""
        settings = self._task.training.grpo
        body = {
            **chat(row, self._task.evaluation),
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "seed": (self._task.training.seed + seed) % 2**31,
            "return_token_ids": True,
        }
        reply = await deployment.ask(policy, CHAT, body)
        if reply.body is None:
            raise ValueError(f"the deployment refused to answer row {row.row_id}: {reply.refusal}")
        choice = reply.body["choices"][0]
        said: Message = message(choice["message"])
        score = await self._scorer(row, said)
        return reply.body["prompt_token_ids"], choice["token_ids"], score.value
