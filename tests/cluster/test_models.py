"""What may be served: real files, made here with transformers, peft and torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.models import check_adapter, check_model, resolve, seed_folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer's file beside it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,  # as Qwen has: a module then owns a vector beside its matrix
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def adapter(folder: Path, base: Path, **options: Any) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM", **options}
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings)).save_pretrained(folder)
    return folder


def copy(base: Path, folder: Path, without: str = "") -> Path:
    folder.mkdir()
    for file in base.iterdir():
        if file.name != without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_seed_is_the_shipped_model() -> None:
    assert resolve("seed") == seed_folder()
    assert seed_folder().parts[-3:] == ("pipelines", "seed", "weights")


def test_folder_is_itself_and_absolute(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    assert resolve(base.name) == base


def test_anything_else_that_looks_like_one_is_a_hugging_face_id() -> None:
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    check_model("Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("model", ["./absent", "/absent/model", "a/b/c", "what is this", ""])
def test_what_can_be_no_model_says_what_can(model: str) -> None:
    with pytest.raises(ValueError, match="neither a folder nor a Hugging Face id"):
        resolve(model)


def test_whole_model_passes(base: Path) -> None:
    check_model(base)


def test_folder_without_weights_is_named(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "model", without="model.safetensors")
    with pytest.raises(ValueError, match=r"has no weights; save the model as safetensors"):
        check_model(folder)


def test_pickled_weights_are_refused(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "model", without="model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\), which can run code"):
        check_model(folder)


def test_truncated_weights_are_refused(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        check_model(folder)


def test_shard_that_the_index_names_must_be_there(base: Path, tmp_path: Path) -> None:
    folder = copy(base, tmp_path / "model")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00002\.safetensors"):
        check_model(folder)


@pytest.mark.parametrize(("file", "complaint"), [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer")])
def test_incomplete_model_says_what_is_missing(base: Path, tmp_path: Path, file: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_model(copy(base, tmp_path / "model", without=file))


def test_adapter_of_this_base_passes(base: Path, tmp_path: Path) -> None:
    check_adapter(adapter(tmp_path, base), base, max_rank=4)


def test_adapter_survives_that_its_base_moved(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path / "adapter", base)
    check_adapter(made, copy(base, tmp_path / "elsewhere"), max_rank=8)


def test_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    config.update({"hidden_size": 48})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="is of another base than"):
        check_adapter(adapter(tmp_path / "adapter", tmp_path / "other"), base, max_rank=4)


def test_adapter_of_too_high_a_rank_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has rank 8 and the engine takes at most 4; raise max_lora_rank"):
        check_adapter(adapter(tmp_path, base, r=8), base, max_rank=4)


def test_rank_that_only_one_module_has_counts(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has rank 16"):
        check_adapter(adapter(tmp_path, base, rank_pattern={"v_proj": 16}), base, max_rank=4)


def test_adapter_that_is_not_plain_lora_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not plain LoRA"):
        check_adapter(adapter(tmp_path, base, use_dora=True), base, max_rank=4)


def test_pickled_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path, base)
    (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights \(adapter_model.bin\)"):
        check_adapter(made, base, max_rank=4)


def test_adapter_of_another_hugging_face_id_is_refused(base: Path, tmp_path: Path) -> None:
    made = adapter(tmp_path, base)
    config = json.loads((made / "adapter_config.json").read_text())
    (made / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "Qwen/Qwen3-0.6B"}))
    with pytest.raises(ValueError, match=r"was trained on Qwen/Qwen3-0\.6B, not on Qwen/Qwen3-1\.7B"):
        check_adapter(made, "Qwen/Qwen3-1.7B", max_rank=4)
    check_adapter(made, "Qwen/Qwen3-0.6B", max_rank=4)


def test_adapter_of_a_tied_head_finds_the_embedding(base: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    config.update({"tie_word_embeddings": True})
    tied = tmp_path / "tied"
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    check_adapter(adapter(tmp_path / "adapter", tied, target_modules=["q_proj", "lm_head"]), tied, max_rank=4)
