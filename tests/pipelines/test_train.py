"""Training under real Ray Train, with TRL and peft, on models of a few thousand weights."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cluster.registry import Registry
from pipelines import train as module
from pipelines.artifacts import Candidate, Dataset
from pipelines.recipe import Recipe, TrainingSettings
from pipelines.steps import Run, manifest
from pipelines.train import Job, Outcome, fit, train
from tests.pipelines.deployment import serve

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

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


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("state") / "datasets" / "curate-1"
    (folder / "train").mkdir(parents=True)
    rows = []
    for n in range(160):
        tool, word = TOOLS[n % 3]["function"]["name"], WORDS[(n * 5) % 8]
        call = {"type": "function", "function": {"name": tool, "arguments": json.dumps({"what": word})}}
        messages = [
            {"role": "user", "content": f"{tool} {word}"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **call}]},
        ]
        row = {"row_id": f"{n:03}", "messages": json.dumps(messages), "tools": json.dumps(TOOLS), "options": "{}"}
        rows.append({**row, "record_ids": [f"req-{n}"], "origin": "log", "session": f"s{n}", "slice": tool})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train" / "part.parquet")
    return Dataset(folder, "digest-1", 160, 0, 0, 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
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
        made[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def job(dataset, model, training=QUICK) -> Job:
    return Job(dataset=str(dataset.path), base=model.name, model=str(model), parent=None, training=training)


def in_this_process(told: Job) -> Outcome:
    """The loop alone, in Ray Train's local mode: a worker takes 20 s to import what it needs."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines import trainer

    return TorchTrainer(lambda: trainer.fit(told), scaling_config=ScalingConfig(num_workers=0)).fit().return_value


@dataclass(frozen=True)
class Trained:
    candidate: Candidate
    again: Candidate
    run: Run
    registry: Registry


@pytest.fixture(scope="module")
def trained(dataset, models, local_ray, tmp_path_factory) -> Trained:
    """The step as a cycle takes it, twice."""
    with serve(tmp_path_factory.mktemp("deployment") / "state", base=str(models["qwen"])) as deployment:
        registry = Registry(deployment.settings)
        registry.create_base("assistant", deployment.base)
        recipe = Recipe(training=QUICK.model_copy(update={"model": deployment.base}))
        run = Run.open(deployment.settings, recipe, "test")
        here = Dataset(run.state / "datasets" / "curate-1", *list(vars(dataset).values())[1:])
        here.path.parent.mkdir(parents=True)
        here.path.symlink_to(dataset.path)
        return Trained(train(run, here), train(run, here), run, registry)


def test_dataset_becomes_a_registered_version(trained, models):
    candidate, version = trained.candidate, trained.candidate.version
    assert trained.again == candidate, "a cycle that was killed after training makes no second version"
    assert (version.id, version.base, version.form, version.rank) == ("assistant@1", str(models["qwen"]), "adapter", 8)
    assert (version.parent, version.lineage.cycle) == ("assistant@0", trained.run.record.id)
    assert (version.lineage.rows, version.lineage.table_version) == (160, 3)
    assert (version.lineage.dataset, version.lineage.dataset_digest) == ("datasets/curate-1", "digest-1")
    assert version.lineage.metrics == candidate.metrics
    assert candidate.metrics["packing"] > 1.5
    assert not list(trained.run.folder.glob("train-*")), "checkpoints go once the version is there"
    adapter = json.loads((trained.registry.folder(version) / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["r"]) == (str(models["qwen"]), 8)
    modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(adapter["target_modules"]) == modules


def test_loss_falls_and_peft_loads_the_adapter(trained, dataset, models):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines import prompt

    history = manifest(next((trained.run.state / "datasets").glob("train-*")))["history"]
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert trained.candidate.metrics["train_loss"] == history[-1]["loss"]

    tokenizer = AutoTokenizer.from_pretrained(models["qwen"])
    base = AutoModelForCausalLM.from_pretrained(models["qwen"], dtype=torch.float32)
    row = dataset.train()[0]
    example = prompt.encode(tokenizer, row.messages, row.tools)
    ids = torch.tensor([example.prompt_ids + example.answer_ids])
    labels = torch.tensor([[-100] * len(example.prompt_ids) + example.answer_ids])
    before = base(input_ids=ids, labels=labels).loss.item()
    tuned = PeftModel.from_pretrained(base, trained.registry.folder(trained.candidate.version))
    assert tuned(input_ids=ids, labels=labels).loss.item() < before / 2


def test_training_ends_in_the_seconds_it_has(dataset, models):
    settings = QUICK.model_copy(update={"epochs": 100.0, "max_seconds": 4.0})
    outcome = in_this_process(job(dataset, models["llama"], settings))
    last = outcome.history[-1]
    assert (last["progress"], outcome.metrics["train_epochs"] < 100) == (1, True)
    assert last["learning_rate"] < 0.01 * settings.learning_rate
    step_s = last["seconds"] / last["step"]
    assert last["seconds"] <= 4 + 10 * step_s


def test_training_that_was_killed_goes_on_from_its_checkpoint(dataset, models, tmp_path, monkeypatch):
    from ray.train import TrainingFailedError

    monkeypatch.setattr(module, "ATTEMPTS", 1)
    work = tmp_path / "work"
    settings = QUICK.model_copy(update={"epochs": 20.0, "checkpoint_every_s": 1.0})
    ended = threading.Event()
    two_checkpoints = lambda: len(list(work.glob("checkpoint_*/seal-0.json"))) >= 2  # noqa: E731
    killer = threading.Thread(target=kill_worker_when, args=(two_checkpoints, ended))
    killer.start()
    with pytest.raises(TrainingFailedError):
        fit(job(dataset, models["llama"], settings), work, tmp_path)
    ended.set()
    killer.join()
    left = [json.loads(file.read_text()) for file in work.glob("checkpoint_*/spent.json")]

    outcome = fit(job(dataset, models["llama"], settings), work, tmp_path)
    # The newest folder may be one that Ray Train had not yet noted when its worker died.
    assert any(outcome.history[: len(one["history"])] == one["history"] for one in left)
    assert outcome.metrics["train_seconds"] > min(one["seconds"] for one in left) > 0
    steps = [entry["step"] for entry in outcome.history]
    assert steps == sorted(set(steps)), "no step is counted twice"


def test_loss_that_runs_away_stops_with_the_cause(dataset, models, tmp_path):
    settings = QUICK.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"not a number any more at step \d+; lower training.learning_rate"):
        fit(job(dataset, models["llama"], settings), tmp_path / "work", tmp_path)


def test_rows_that_are_all_too_long_are_said_to_be(dataset, models):
    with pytest.raises(ValueError, match=r"none of 160 rows has at most 5 tokens; raise training\.max_tokens"):
        in_this_process(job(dataset, models["llama"], QUICK.model_copy(update={"max_tokens": 5})))


def test_model_without_attention_is_trained_on_plain_rows(dataset, models):
    """Whether packs keep rows apart is measured: a state-space model mixes them up, attention does not."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

    from pipelines import attention, prompt

    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    examples = [prompt.encode(tokenizer, row.messages, row.tools) for row in dataset.train()[:8]]
    mamba = MambaForCausalLM(MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=2, state_size=4))
    assert attention.take_packs(mamba, examples, 0) and mamba.config._attn_implementation != attention.NAME
    llama = AutoModelForCausalLM.from_pretrained(models["llama"])
    assert attention.take_packs(llama, examples, 0) is None and llama.config._attn_implementation == attention.NAME


def kill_worker_when(condition, ended: threading.Event):
    """SIGKILL this process's own Ray Train worker as soon as the condition holds; give up when the training ended."""
    while not condition():
        if ended.wait(0.05):
            return
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
