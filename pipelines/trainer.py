"""The training loop in a Ray Train worker: TRL's `SFTTrainer` with peft, fed with packs, paced by a clock.

Importing torch, transformers and trl takes 10 s, so only workers import this module. Shapes: B sequences of a
micro-batch, T tokens of each, K positions with a label, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.utils.other
import ray.train
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from ray.train import Checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from pipelines import attention, packing, prompt
from pipelines.artifacts import read_rows
from pipelines.mentions import Mentions
from pipelines.recipe import TrainingSettings
from pipelines.schedule import Clock, Plan
from pipelines.sharing import Worker, Yielding
from pipelines.train import Job, Outcome

# Unwrapping a model, accelerate imports DeepSpeed to ask whether it is DeepSpeed's: 4 s of CPU at the first step.
accelerate.utils.other.is_deepspeed_available = lambda: False
UNSTABLE = "the {what} was not a number any more at step {step}; lower training.learning_rate, or look at the rows"


def fit(job: Job) -> Outcome:
    """Train, report progress and checkpoints to Ray Train, and leave the adapter in the last checkpoint.

    Raises `ValueError` if there is nothing to train on, or weights that are not safetensors.
    """
    started, context, settings = time.monotonic(), ray.train.get_context(), job.training
    # One core stays with what serves. Threads wait for each other thousands of times a step: on all cores every process
    # of the cluster that wakes up stops them all, and two cores came to 2,900 tokens/s, one of them alone to 3,400.
    torch.set_num_threads(max(1, (len(os.sched_getaffinity(0)) - 1) // context.get_local_world_size()))
    with tempfile.TemporaryDirectory() as scratch:
        resume = _fetch(ray.train.get_checkpoint(), Path(scratch))
        if resume and (done := resume / "outcome.json").exists():
            return Outcome(**json.loads(done.read_text()))
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        rows = read_rows(Path(job.dataset) / "train")
        examples = [prompt.encode_row(tokenizer, row) for row in rows]
        fitting, long = packing.fitting(examples, settings.max_tokens)
        if not fitting:
            raise ValueError(
                f"none of {len(rows)} rows has at most {settings.max_tokens} tokens; raise training.max_tokens"
            )
        model = METHODS[settings.method](job, _load(job.model))
        if refusal := attention.take_packs(model, fitting, pad):
            _say(f"{refusal}: training on plain rows")
        form = packing.pad if refusal else packing.collate
        mentions = Mentions(rows)

        def vary(epoch: int) -> list[packing.Example]:
            mixture = mentions.mixture(rows, settings.mention_replacement, f"{settings.seed}-{epoch}")
            pairs = zip(mixture, rows, examples, strict=True)
            encoded = [known if row is old else prompt.encode_row(tokenizer, row) for row, old, known in pairs]
            return packing.fitting(encoded, settings.max_tokens)[0]

        varied = vary if settings.mention_replacement else None
        workers = context.get_world_size()
        plan = Plan.make(fitting, settings, refusal is None, settings.workers, varied).on(workers, settings.workers)
        clock = Clock(plan.steps, settings.max_seconds)
        sharing = Yielding(Worker(job.ground, settings, context.get_world_rank(), workers, torch.cuda.is_available()))
        reporter = Reporter(clock, plan, settings, *_earlier(resume), lambda: sharing.paused_s)
        trainer = Finetune(
            clock,
            model=model,
            args=_arguments(settings, plan, scratch),
            train_dataset=Dataset.from_dict({"batch": list(range(len(plan.batches)))}),
            data_collator=lambda items: form(plan.batches[items[0]["batch"]], pad),
            processing_class=tokenizer,
            callbacks=[reporter, sharing],
        )
        trainer.remove_callback(PrinterCallback)
        again = f", going on after step {reporter.history[-1]['step']:.0f}" if resume else ""
        _say(f"{len(fitting)} rows ({long} too long), {plan}; ready after {time.monotonic() - started:.1f} s{again}")
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if sharing.left:
            return Outcome(left=sharing.left)
        _check_weights(trainer.model, clock.step)
        outcome = Outcome(
            metrics={
                "train_loss": reporter.history[-1]["loss"],
                "train_steps": clock.step,
                "train_seconds": round(clock.elapsed_s, 1),
                "train_epochs": round(clock.step * plan.epochs / plan.steps, 3),
                "tokens_per_s": round(reporter.history[-1]["tokens_per_s"], 1),
                "packing": round(plan.plain_tokens / plan.tokens, 2),
                "rows_too_long": long,
            },
            history=reporter.history,
        )
        _leave(job, trainer.model, outcome, Path(scratch) / "final")
        return outcome


class Finetune(SFTTrainer):
    """TRL's trainer with the clock's learning rate, and a loss that is quick on CPUs."""

    def __init__(self, clock: Clock, **arguments: Any) -> None:
        self._clock = clock
        takes = inspect.signature(arguments["model"].get_base_model().forward).parameters
        self._compact = arguments["args"].use_cpu and "logits_to_keep" in takes
        super().__init__(**arguments)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self._clock.rate())
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self._compact or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # On CPUs TRL's fused head projects every position, labelled or not, which takes as long as the rest of a small
        # model's step (0.5 s for 4,096 tokens). The labelled ones alone take 0.01 s.
        targets_BT = inputs["labels"][:, 1:]
        keep_K = (targets_BT != -100).any(0).nonzero()[:, 0]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        logits_BKV = model(**inputs, logits_to_keep=keep_K, use_cache=False).logits.float()
        targets_BK = targets_BT[:, keep_K]
        loss = F.cross_entropy(logits_BKV.flatten(0, 1), targets_BK.flatten(), ignore_index=-100, reduction="sum")
        # As in TRL: the count is that of all ranks, and their gradients are averaged.
        return loss * self.accelerator.num_processes / num_items_in_batch

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """None beside each checkpoint: a version carries its lineage."""


class Reporter(TrainerCallback):
    """Tells the clock the time; carries progress and checkpoints to the log and to Ray Train.

    Every rank acts on the same time, so that all of them log, save and stop at the same step.
    """

    def __init__(
        self,
        clock: Clock,
        plan: Plan,
        settings: TrainingSettings,
        spent_s: float,
        history: list[dict[str, float]],
        paused_s: Callable[[], float],
    ) -> None:
        self._clock, self._plan, self._settings, self._spent_s = clock, plan, settings, spent_s
        self.history = history
        self._paused_s = paused_s

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.start(state.global_step, self._spent_s)
        self._started, self._first_step = time.monotonic(), state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        elapsed_s = self._spent_s + time.monotonic() - self._started - self._paused_s()
        # A loss that is not a number leaves gradients that are not; after clipping by the norm, all of them.
        healthy = all(bool(weight.grad.isfinite().all()) for weight in model.parameters() if weight.grad is not None)
        elapsed_s, healthy = _agreed(elapsed_s, healthy)
        if not healthy:
            raise ValueError(UNSTABLE.format(what="loss", step=state.global_step + 1))
        self._clock.tick(state.global_step + 1, elapsed_s)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = control.should_training_stop or self._clock.progress == 1
        control.should_log = self._clock.log_due()
        control.should_save = self._clock.save_due(self._settings.checkpoint_every_s)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs:
            return
        done = (state.global_step - self._first_step) * self._plan.accumulate * args.world_size
        seconds = max(self._clock.elapsed_s - self._spent_s, 1e-9)
        entry = {
            "step": float(state.global_step),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_s": done * self._plan.tokens_per_batch / seconds,
            "seconds": self._clock.elapsed_s,
            "progress": self._clock.progress,
        }
        self.history.append(entry)
        _say(
            f"step {state.global_step} of {self._plan.steps}, {self._clock.progress:.0%}: loss {logs['loss']:.3f}, "
            f"{entry['tokens_per_s']:.0f} tokens/s, {self._clock.left_s:.0f} s to go"
        )
        ray.train.report(entry)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        _check_weights(model, state.global_step)
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / "spent.json").write_text(json.dumps({"seconds": self._clock.elapsed_s, "history": self.history}))
        _report(self.history[-1], folder)


def _load(model: str) -> PreTrainedModel:
    """Weights in the precision that this machine multiplies fast. Never pickles, never code from the model's folder."""
    dtype = torch.bfloat16 if _bf16() else torch.float32
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, use_safetensors=True, trust_remote_code=False)


def _lora(job: Job, model: PreTrainedModel) -> PeftModel:
    """All linear layers of the blocks. Not the embeddings and the head: vLLM does not serve those in every adapter."""
    if job.parent:
        return PeftModel.from_pretrained(model, job.parent, is_trainable=True)
    torch.manual_seed(job.training.seed)
    config = LoraConfig(
        r=job.training.rank, lora_alpha=job.training.alpha, target_modules="all-linear", task_type=TaskType.CAUSAL_LM
    )
    return get_peft_model(model, config)


METHODS = {"lora": _lora}
"""How a recipe's `training.method` makes a loaded base trainable."""


def _arguments(settings: TrainingSettings, plan: Plan, folder: str) -> SFTConfig:
    cpu = not torch.cuda.is_available()
    return SFTConfig(
        output_dir=folder,
        use_cpu=cpu,
        bf16=_bf16(),
        max_steps=plan.steps,
        per_device_train_batch_size=1,  # a micro-batch of the plan is one item
        gradient_accumulation_steps=plan.accumulate,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        learning_rate=settings.learning_rate,
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        dataloader_pin_memory=not cpu,
        ddp_find_unused_parameters=False,
        # The clock says when to log and save, and a loss that is not a number must be seen.
        logging_strategy="no",
        save_strategy="no",
        save_total_limit=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )


def _bf16() -> bool:
    """Without instructions for it bf16 is emulated and slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _agreed(elapsed_s: float, healthy: bool) -> tuple[float, bool]:
    """The time of the rank that has stood still the longest, and whether all ranks are healthy."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return elapsed_s, healthy
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    mine = torch.tensor([elapsed_s, float(healthy)], dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, mine)
    return min(rank[0].item() for rank in everyone), all(bool(rank[1].item()) for rank in everyone)


def _check_weights(model: Any, step: int) -> None:
    if not all(bool(weight.isfinite().all()) for weight in model.parameters() if weight.requires_grad):
        raise ValueError(UNSTABLE.format(what="adapter", step=step))


def _fetch(checkpoint: Checkpoint | None, scratch: Path) -> Path | None:
    """The newest checkpoint as a local folder, under the name that `Trainer` expects."""
    return Path(checkpoint.to_directory(str(scratch / "checkpoint-0"))) if checkpoint else None


def _earlier(resume: Path | None) -> tuple[float, list[dict[str, float]]]:
    """Seconds that earlier attempts trained up to their checkpoint, and what they reported until then."""
    if resume is None:
        return 0.0, []
    spent = json.loads((resume / "spent.json").read_text())
    return spent["seconds"], spent["history"]


def _leave(job: Job, model: Any, outcome: Outcome, folder: Path) -> None:
    """The adapter and the outcome as the last checkpoint. The base is named by its id: paths mean nothing elsewhere."""
    folder.mkdir()
    config = model.peft_config["default"]
    config.base_model_name_or_path = job.base
    # "all-linear" comes out as every layer's full name; servers look for the last part.
    config.target_modules = sorted({name.rpartition(".")[2] for name in config.target_modules})
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "outcome.json").write_text(outcome.model_dump_json())
    _report(outcome.metrics, folder)


def _report(metrics: dict[str, float], folder: Path) -> None:
    """Hand a checkpoint to Ray Train, which copies it to the run's storage before it counts. All ranks take part."""
    first = ray.train.get_context().get_world_rank() == 0
    ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(folder)) if first else None)


def _say(line: str) -> None:
    if ray.train.get_context().get_world_rank() == 0:
        print(f"train      {line}", flush=True)
