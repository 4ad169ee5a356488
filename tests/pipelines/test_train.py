"""Training under real Ray Train, with TRL and peft, on models of a few thousand weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from cluster.registry import Registry
from pipelines.artifacts import Candidate, Dataset
from pipelines.recipe import Recipe
from pipelines.steps import Run, manifest
from pipelines.train import fit, train
from tests.pipelines.deployment import serve
from tests.pipelines.training import QUICK, in_this_process, job

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


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


def test_loss_that_runs_away_stops_with_step_and_rows(dataset, models, tmp_path):
    settings = QUICK.model_copy(update={"learning_rate": 1e30})
    cause = (
        r"the loss was not a number any more at step 2, in rows \d{3}, \d{3}, .* and \d+ more; lower training.learning"
    )
    with pytest.raises(ValueError, match=cause):
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
