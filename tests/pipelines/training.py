"""Models of a few thousand weights and rows for them; trainings on both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as parquet

from pipelines.artifacts import Dataset
from pipelines.recipe import TrainingSettings
from pipelines.train import Job, Outcome

WORDS = ["rome", "oslo", "jazz", "rock", "noon", "five", "blue", "train"]
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}},
    }
    for name in ("book", "play", "find")
]
CHATML = """{%- if tools %}<|im_start|>system
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QUICK = TrainingSettings(
    rank=8, alpha=16, learning_rate=1e-2, epochs=4, min_steps=0, batch_tokens=800, pack_tokens=400, max_seconds=None
)


def said(tool: str, word: str) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": tool, "arguments": json.dumps({"what": word})}}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **call}]}


def dataset(folder: Path) -> Dataset:
    """160 requests with their calls; every second one was answered wrongly at first."""
    (folder / "train").mkdir(parents=True)
    rows = []
    for n in range(160):
        tool, word = TOOLS[n % 3]["function"]["name"], WORDS[(n * 5) % 8]
        messages = [{"role": "user", "content": f"{tool} {word}"}, said(tool, word)]
        row = {"row_id": f"{n:03}", "messages": json.dumps(messages), "tools": json.dumps(TOOLS), "options": "{}"}
        row["rejected"] = json.dumps(said(TOOLS[(n + 1) % 3]["function"]["name"], word)) if n % 2 else None
        rows.append({**row, "record_ids": [f"req-{n}"], "origin": "log", "session": f"s{n}", "slice": tool})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train" / "part.parquet")
    return Dataset(folder, "digest-1", 160, 0, 0, 3)


def models(parent: Path) -> dict[str, Path]:
    """A Llama and a Qwen with random weights and a tokenizer of the texts' own bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    core = Tokenizer(BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [json.dumps(TOOLS), *WORDS], BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    shape = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # The head stays as it is under LoRA: with the usual 0.02 no logits of such a narrow model could be sure.
        "initializer_range": 0.1,
    }
    made = {}
    torch.manual_seed(0)
    for name, model in {
        "llama": LlamaForCausalLM(LlamaConfig(**shape)),
        "qwen": Qwen2ForCausalLM(Qwen2Config(**shape)),
    }.items():
        made[name] = parent / name
        model.save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def job(dataset: Dataset, model: Path, training: TrainingSettings = QUICK) -> Job:
    return Job(dataset=str(dataset.path), base=model.name, model=str(model), parent=None, training=training)


def in_this_process(told: Job) -> Outcome:
    """The loop alone, in Ray Train's local mode: a worker takes 20 s to import what it needs."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines import trainer

    return TorchTrainer(lambda: trainer.fit(told), scaling_config=ScalingConfig(num_workers=0)).fit().return_value


def own_processes(name: str) -> Iterator[psutil.Process]:
    """This process's own descendants whose title has `name` in it."""
    for process in psutil.Process().children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                yield process
        except psutil.NoSuchProcess:
            continue
