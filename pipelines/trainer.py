"""The training loop in a Ray Train worker: the same for all methods, which say what is trained on.

Importing torch, transformers and trl takes 10 s, so only workers import this module.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
import torch
from transformers import AutoTokenizer, PrinterCallback

from pipelines import checkpoints, methods, parallel, weights
from pipelines.artifacts import read_rows
from pipelines.methods import Task, Work
from pipelines.reporter import Earlier, Reporter, report, say
from pipelines.schedule import Clock
from pipelines.sharing import Worker, Yielding
from pipelines.train import Job, Outcome


def fit(job: Job) -> Outcome:
    """Train, report progress and checkpoints to Ray Train, and leave the weights in the last checkpoint.

    Raises `ValueError` if there is nothing to train on, or weights that are not safetensors.
    """
    started, context, training = time.monotonic(), ray.train.get_context(), job.training
    # One core stays with what serves. Threads wait for each other thousands of times a step: on all cores every process
    # of the cluster that wakes up stops them all, and two cores came to 2,900 tokens/s, one of them alone to 3,400.
    torch.set_num_threads(max(1, (len(os.sched_getaffinity(0)) - 1) // context.get_local_world_size()))
    with tempfile.TemporaryDirectory() as scratch:
        resume = checkpoints.fetch(checkpoints.newest(Path(job.storage)), Path(scratch))
        if resume and (done := resume / "outcome.json").exists():
            return Outcome(**json.loads(done.read_text()))
        bf16 = parallel.bf16(training)
        settings = parallel.arguments(training, bf16)  # before a model is made: ZeRO-3 shares it out as it comes in
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        model = weights.load(job.model, job.parent, training, torch.bfloat16 if bf16 else torch.float32)
        work = methods.find(training.method).prepare(
            Task(
                rows=read_rows(Path(job.dataset) / "train"),
                tokenizer=tokenizer,
                model=model,
                training=training,
                workers=context.get_world_size(),
                cpu=not torch.cuda.is_available(),
                alias=job.alias,
                base=job.base,
                evaluation=job.evaluation,
                say=say,
            )
        )
        clock = Clock(work.steps, training.max_seconds)
        rank, workers = context.get_world_rank(), context.get_world_size()
        sharing = Yielding(Worker(job.ground, training, rank, workers, torch.cuda.is_available()))
        reporter = Reporter(clock, work, training, Earlier.read(resume), lambda: sharing.paused_s)
        trainer = paced(work.trainer)(
            clock=clock,
            losses=reporter.losses,
            model=model,
            args=work.arguments(**(_arguments(job, work, bf16, scratch) | settings | work.settings)),
            processing_class=tokenizer,
            callbacks=[reporter, sharing],
            **work.options,
        )
        trainer.remove_callback(PrinterCallback)
        again = f", going on after step {reporter.history[-1]['step']:.0f}" if resume else ""
        say(f"{work.summary}; ready after {time.monotonic() - started:.1f} s{again}")
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if sharing.left:
            return Outcome(left=sharing.left)
        reporter.check_weights(trainer.model, clock.step)
        outcome = Outcome(
            metrics={
                "train_loss": reporter.history[-1]["loss"],
                "train_steps": clock.step,
                "train_seconds": round(clock.elapsed_s, 1),
                "train_epochs": round(clock.step * work.epochs / work.steps, 3),
                "tokens_per_s": round(reporter.history[-1]["tokens_per_s"], 1),
                **{name: reporter.history[-1][name] for name in work.shown if name in reporter.history[-1]},
                **work.metrics,
            },
            history=reporter.history,
        )
        _leave(job, trainer, tokenizer, outcome, Path(scratch) / "final")
        return outcome


def paced(trainer: type) -> type:
    """The same trainer with the clock's learning rate; what each micro-batch's loss was goes to `losses`."""

    class Paced(trainer):  # type: ignore[misc]
        def __init__(self, clock: Clock, losses: list[torch.Tensor], **arguments: Any) -> None:
            self._clock, self._losses = clock, losses
            super().__init__(**arguments)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.lr_scheduler is None:  # type: ignore[has-type]
                optimizer = optimizer or self.optimizer
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self._clock.rate())
                self._created_lr_scheduler = True
            return self.lr_scheduler

        def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
            loss = super().training_step(*arguments, **options)
            self._losses.append(loss.detach())
            return loss

        def create_model_card(self, *args: Any, **options: Any) -> None:
            """None beside each checkpoint: a version carries its lineage."""

    return Paced


def _arguments(job: Job, work: Work, bf16: bool, folder: str) -> dict[str, Any]:
    training = job.training
    return {
        "output_dir": folder,
        "bf16": bf16,
        "max_steps": work.steps,
        "per_device_train_batch_size": 1,  # a micro-batch of the plan is one item
        "gradient_accumulation_steps": work.accumulate,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "learning_rate": training.learning_rate,
        "gradient_checkpointing": training.gradient_checkpointing,
        "seed": training.seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        # The clock says when to log and save, and a loss that is not a number must be seen.
        "logging_strategy": "no",
        "save_strategy": "no",
        "save_total_limit": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
    }


def _leave(job: Job, trainer: Any, tokenizer: Any, outcome: Outcome, folder: Path) -> None:
    """Weights and outcome as the last checkpoint."""
    state = weights.gather(trainer)
    folder.mkdir()
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        weights.save(model, state, job.base, weights.dtype_of(job.model), tokenizer, folder)
        (folder / "outcome.json").write_text(outcome.model_dump_json())
    report(outcome.metrics, folder)
