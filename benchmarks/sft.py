"""The peer of `benchmarks/train.py`: TRL's trainer as a script for `torchrun`, without Ray, clock, log or checkpoints.

The same model, adapter, micro-batches and loss as the recipe's, so that what differs is what surrounds them. Reads a
`Told` (JSON) and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

from benchmarks.train import Told


def main() -> None:
    told = Told.model_validate_json(sys.stdin.read())
    import torch
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

    from pipelines import parallel, weights
    from pipelines.artifacts import read_rows
    from pipelines.methods import Task, sft
    from pipelines.recipe import EvaluationSettings

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
    bf16 = parallel.bf16(told.training)
    settings = parallel.arguments(told.training, bf16)
    tokenizer = AutoTokenizer.from_pretrained(told.model)
    model = weights.load(told.model, None, told.training, torch.bfloat16 if bf16 else torch.float32)
    work = sft.prepare(
        Task(
            rows=read_rows(told.dataset / "train"),
            tokenizer=tokenizer,
            model=model,
            training=told.training,
            workers=1,
            cpu=not torch.cuda.is_available(),
            alias="assistant",
            base="seed",
            evaluation=EvaluationSettings(),
            say=lambda line: None,
        )
    )

    class Watch(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *_: object, **__: object) -> None:
            self.began = time.monotonic()

        def on_step_end(self, *_: object, **__: object) -> None:
            self.ended = time.monotonic()

    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = work.trainer(
            model=model,
            args=work.arguments(
                output_dir=folder,
                bf16=bf16,
                max_steps=work.steps,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=work.accumulate,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                learning_rate=told.training.learning_rate,
                lr_scheduler_type="cosine",
                seed=told.training.seed,
                dataloader_pin_memory=torch.cuda.is_available(),
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
                **settings,
                **work.settings,
            ),
            processing_class=tokenizer,
            callbacks=[watch],
            **work.options,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    print(json.dumps({"tokens_per_s": work.steps * work.tokens / (watch.ended - watch.began)}))


if __name__ == "__main__":
    main()
