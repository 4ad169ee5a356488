from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import trivium
from cluster.registry import Registry
from cluster.settings import Settings
from pipelines.export.exporter import export
from tests.pipelines.export.conftest import BASE, House, Run, edit

TEXT = "please switch on the light in the kitchen"


@pytest.fixture(scope="module")
def merged(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "deep" / "assistant"
    return export(house.settings, "assistant@1", "merged", out, base=str(house.base))


def inside(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def refused(settings: Settings, tmp_path: Path, complaint: str, name: str, form: str, base: Path | None = None) -> None:
    """One sentence, and nothing left where the folder would have been."""
    with pytest.raises(ValueError, match=complaint):
        export(settings, name, form, tmp_path / "out", str(base) if base else None)
    assert not [file for file in os.listdir(tmp_path) if "out" in file]


def moved(house: House, tmp_path: Path) -> Settings:
    """The same state in another place, to be damaged there."""
    return Settings(state=Path(shutil.copytree(house.state, tmp_path / "state")))


def test_merged_weights_answer_as_base_and_adapter_do(house: House, merged: Path, torch) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(merged)(TEXT, return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(house.base).float()
    with torch.no_grad():
        untuned = base(input_ids=ids).logits
        expected = PeftModel.from_pretrained(base, str(house.adapter))(input_ids=ids).logits
        model = AutoModelForCausalLM.from_pretrained(merged)
        found = model.float()(input_ids=ids).logits
    assert (found - expected).abs().max() < 0.02 < (untuned - expected).abs().max() / 10


def test_merged_folder_has_the_precision_tokens_and_template_of_its_base(house: House, merged: Path) -> None:
    assert inside(merged) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((merged / "config.json").read_text())["dtype"] == "bfloat16"
    assert (merged / "model.safetensors").stat().st_size == (house.base / "model.safetensors").stat().st_size
    for same in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (merged / same).read_bytes() == (house.base / same).read_bytes()
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in merged.iterdir())


def test_merged_card_tells_what_merging_cost_and_its_example_runs(merged: Path, run_example: Run) -> None:
    card = (merged / "README.md").read_text()
    assert "license: mit" in card
    assert "The merged weights, bfloat16, as they are read back" in card
    assert "The likeliest token" not in card
    assert run_example(merged, {})["printed"].strip()


def test_adapter_is_what_was_registered_with_its_base_named_by_its_id(
    house: House, tmp_path: Path, run_example: Run
) -> None:
    folder = export(house.settings, "assistant@1", "adapter", tmp_path / "adapter")
    assert inside(folder) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert weights == (house.adapter / "adapter_model.safetensors").read_bytes()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE
    assert run_example(folder, {f'BASE = "{BASE}"': f"BASE = {str(house.base)!r}"})["printed"].strip()


def test_a_version_of_full_weights_leaves_as_it_is(house: House, tmp_path: Path) -> None:
    folder = export(house.settings, "assistant@2", "merged", tmp_path / "full")
    assert set(inside(folder)) == {*inside(house.full), "README.md"}
    assert all((folder / name).read_bytes() == (house.full / name).read_bytes() for name in inside(house.full))
    assert "all its weights tuned" in (folder / "README.md").read_text()


def test_version_zero_leaves_as_its_base_without_what_is_pickled_there(house: House, tmp_path: Path) -> None:
    folder = export(house.settings, "assistant@0", "merged", tmp_path / "base", base=str(house.base))
    assert (folder / "model.safetensors").read_bytes() == (house.base / "model.safetensors").read_bytes()
    assert "training_args.bin" not in inside(folder)


def test_an_alias_means_its_champion(house: House, tmp_path: Path) -> None:
    folder = export(house.settings, "assistant", "adapter", tmp_path / "adapter")
    assert "# assistant@1\n" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "form", "complaint"),
    [
        ("assistant@9", "merged", "no version assistant@9 in the registry; the newest of assistant: assistant@0"),
        ("support", "merged", r"no alias support \(known: assistant\)"),
        ("assistant@", "merged", "not a version; write it as NAME@N"),
        ("assistant@2", "adapter", "assistant@2 is a version of full weights and has no adapter; use --format merged"),
        ("assistant@0", "adapter", "assistant@0 is the base itself and has no adapter"),
    ],
)
def test_what_is_not_there_is_refused(house: House, tmp_path: Path, name: str, form: str, complaint: str) -> None:
    refused(house.settings, tmp_path, complaint, name, form)


def test_a_base_of_its_own_is_not_what_full_weights_need(house: House, tmp_path: Path) -> None:
    refused(house.settings, tmp_path, "needs no base; leave --base out", "assistant@2", "merged", house.base)


def test_a_base_that_cannot_be_fetched_is_asked_for(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(house.settings, tmp_path, "acme/tiny cannot be fetched .*--base", "assistant@1", "merged")


def test_a_base_whose_name_says_nothing_is_asked_for(house: House, tmp_path: Path) -> None:
    settings = Settings(state=tmp_path / "state")
    Registry(settings).create("local", "weights", "adapter", 8, None, None, house.adapter)
    refused(settings, tmp_path, "weights of weights are needed; say with --base where", "local@1", "merged")


def test_another_base_than_the_adapters_is_refused(house: House, tmp_path: Path) -> None:
    other = Path(shutil.copytree(house.base, tmp_path / "other"))
    from safetensors.numpy import save_file

    save_file({}, other / "model.safetensors")
    refused(house.settings, tmp_path, "is of another base than", "assistant@1", "merged", other)


def test_a_quantized_base_cannot_be_merged(house: House, tmp_path: Path) -> None:
    packed = Path(shutil.copytree(house.base, tmp_path / "packed"))
    edit(packed / "config.json", quantization_config={"quant_method": "fp8"})
    refused(
        house.settings, tmp_path, "packed is quantized .*export with --format adapter", "assistant@1", "merged", packed
    )


@pytest.mark.filterwarnings("ignore:Model :UserWarning")  # peft warns of the very thing
def test_an_adapter_that_does_not_merge_is_refused(house: House, tmp_path: Path) -> None:
    # The head shares its weights with the embeddings: merged into one, the adapter changes both.
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=8, lora_alpha=8, target_modules=["lm_head"], init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(house.base), config)
    tuned.save_pretrained(tmp_path / "head", save_embedding_layers=False)
    edit(tmp_path / "head" / "adapter_config.json", base_model_name_or_path=BASE)
    settings = Settings(state=tmp_path / "state")
    Registry(settings).create("head", BASE, "adapter", 8, None, None, tmp_path / "head")
    refused(
        settings,
        tmp_path,
        "the merged model gives other answers .*use --format adapter",
        "head@1",
        "merged",
        house.base,
    )


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_a_torn_artifact_stays_where_it_is(house: House, tmp_path: Path, form: str) -> None:
    settings = moved(house, tmp_path)
    file = Registry(settings).folder("assistant@1") / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    refused(settings, tmp_path, "assistant@1 is torn: adapter_model.safetensors", "assistant@1", form, house.base)
    file.unlink()
    refused(settings, tmp_path, "assistant@1 has lost adapter_model.safetensors", "assistant@1", form, house.base)


def test_an_occupied_folder_is_left_alone(house: House, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        with pytest.raises(ValueError, match=f"{name} is there and not an empty folder; name one that is not there"):
            export(house.settings, "assistant@1", "adapter", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "out"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    (tmp_path / "out" / "thesis.txt").unlink()
    assert "README.md" in inside(export(house.settings, "assistant@1", "adapter", tmp_path / "out"))


def test_the_command_says_what_it_wrote_or_why_not(house: House, tmp_path: Path) -> None:
    run = CliRunner(env={"TRIVIUM_STATE": str(house.state)}).invoke
    out = ["--format", "adapter", "--out", str(tmp_path / "out")]
    done = run(trivium.main, ["export", "assistant", *out])
    assert done.exit_code == 0
    assert "README.md, adapter_config.json, adapter_model.safetensors" in done.output
    again = run(trivium.main, ["export", "assistant", *out])
    assert again.exit_code == 1
    assert again.output.startswith("Error: ") and again.output.count("\n") == 1
