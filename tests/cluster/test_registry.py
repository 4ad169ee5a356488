from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from cluster.records import Lineage, Version
from cluster.registry import Registry, parse
from cluster.settings import Settings

LINEAGE = Lineage(
    cycle="20260101-000000-ab",
    rows=10,
    replay_rows=3,
    table_version=7,
    dataset="curate-1",
    dataset_digest="d1",
    recipe="default.yaml",
    recipe_digest="r1",
    code_revision="abc",
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter of rank 8 as peft saves one."""
    folder.mkdir()
    config = {"r": 8, "peft_type": "LORA", "base_model_name_or_path": "some/model"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{name}.lora_A.weight": numpy.ones((8, 4)), f"{name}.lora_B.weight": numpy.ones((4, 8))}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def create(settings: Settings, source: Path, parent: str | None = None, lineage: Lineage | None = None) -> Version:
    return Registry(settings).create("assistant", "seed", "adapter", 8, parent, lineage, source)


def test_versions_count_up_and_come_back_as_they_were_made(settings: Settings, adapter: Path) -> None:
    first, second = create(settings, adapter), create(settings, adapter, "assistant@1", LINEAGE)
    registry = Registry(settings)
    assert [first.id, second.id] == ["assistant@1", "assistant@2"]
    assert registry.get("assistant@2") == second
    assert registry.versions("assistant") == [first, second]
    assert registry.names() == ["assistant"]
    served = registry.folder("assistant@2") / "adapter_model.safetensors"
    assert served.read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_what_a_trainer_left_beside_the_adapter_is_not_served(settings: Settings, adapter: Path) -> None:
    (adapter / "training_args.bin").write_bytes(pickle.dumps({}))
    (adapter / "optimizer.pt").write_bytes(pickle.dumps({}))
    version = create(settings, adapter)
    files = sorted(os.listdir(Registry(settings).folder(version)))
    assert files == ["adapter_config.json", "adapter_model.safetensors", "version.json"]


def test_a_version_is_not_written_to_again(settings: Settings, adapter: Path) -> None:
    folder = Registry(settings).folder(create(settings, adapter))
    assert all(file.stat().st_mode & 0o222 == 0 for file in folder.glob("adapter*"))


def test_a_version_knows_its_files_and_notices_when_they_are_others(settings: Settings, adapter: Path) -> None:
    version, registry = create(settings, adapter), Registry(settings)
    assert set(version.files) == {"adapter_config.json", "adapter_model.safetensors"}
    registry.check(registry.get("assistant@1"))
    file = registry.folder(version) / "adapter_model.safetensors"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"assistant@1 is torn: adapter_model\.safetensors .* from a backup"):
        registry.check(version)
    file.unlink()
    with pytest.raises(ValueError, match=r"assistant@1 has lost adapter_model\.safetensors; put it back"):
        registry.check(version)


def test_a_version_of_an_older_release_has_no_digests_to_check(settings: Settings, adapter: Path) -> None:
    version, registry = create(settings, adapter), Registry(settings)
    file = registry.folder(version) / "version.json"
    kept = {name: value for name, value in json.loads(file.read_text()).items() if name != "files"}
    file.chmod(0o644)
    file.write_text(json.dumps(kept))
    registry.check(registry.get("assistant@1"))
    assert (registry.find("assistant@9"), registry.find("assistant")) == (None, None)


def test_version_zero_is_the_base_and_stays_that_base(settings: Settings) -> None:
    registry = Registry(settings)
    base = registry.create_base("assistant", "seed")
    assert (base.id, base.form, base.base) == ("assistant@0", "base", "seed")
    assert registry.create_base("assistant", "seed") == base
    with pytest.raises(ValueError, match="assistant@0 is the base seed, not other"):
        registry.create_base("assistant", "other")


def test_a_version_of_full_weights_keeps_what_loading_needs(settings: Settings, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    (model / "training_args.bin").write_bytes(b"pickle")
    save_file({"w": numpy.ones(3)}, model / "model.safetensors")
    version = Registry(settings).create("assistant", "seed", "full", None, None, None, model)
    files = sorted(os.listdir(Registry(settings).folder(version)))
    assert files == ["config.json", "model.safetensors", "tokenizer.json", "version.json"]


def test_pickled_weights_are_refused(settings: Settings, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"only pickled weights \(adapter_model.bin\).*as safetensors"):
        create(settings, adapter)
    assert Registry(settings).versions("assistant") == []


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"r": 4, "peft_type": "LORA"}'), "rank 4, not 8"),
    ],
)
def test_a_folder_that_is_no_such_adapter_is_refused(settings: Settings, adapter: Path, broken, complaint: str) -> None:
    broken(adapter)
    with pytest.raises(ValueError, match=complaint):
        create(settings, adapter)
    assert not list((settings.state / "models").glob("*/*"))


def test_an_unknown_version_is_refused_with_the_known_ones(settings: Settings, adapter: Path) -> None:
    create(settings, adapter)
    with pytest.raises(
        ValueError, match="no version assistant@9 in the registry; the newest of assistant: assistant@1"
    ):
        Registry(settings).get("assistant@9")


@pytest.mark.parametrize(
    "strange", ["", "assistant", "assistant@", "assistant@-1", "assistant@01", "../x@1", "a/b@1", "@1", "a@1@2"]
)
def test_an_id_cannot_lead_out_of_the_registry(settings: Settings, strange: str) -> None:
    with pytest.raises(ValueError, match="is not a version; write it as NAME@N"):
        Registry(settings).get(strange)


def test_an_id_is_a_name_and_a_number() -> None:
    assert parse("my-model.v2@13") == ("my-model.v2", 13)


def test_a_name_cannot_lead_out_of_the_registry(settings: Settings, adapter: Path) -> None:
    with pytest.raises(ValueError, match="cannot be an alias"):
        Registry(settings).create("../secrets", "seed", "adapter", 8, None, None, adapter)


def _create_some(settings: Settings, source: Path, barrier) -> None:
    barrier.wait()
    for _ in range(5):
        create(settings, source)


def test_processes_that_publish_at_once_get_different_numbers(settings: Settings, adapter: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    children = [context.Process(target=_create_some, args=(settings, adapter, barrier)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [version.number for version in Registry(settings).versions("assistant")] == list(range(1, 21))


def _die_before_the_end(settings: Settings, source: Path) -> None:
    from cluster import registry

    registry._write = lambda *_: os._exit(9)  # type: ignore[assignment]
    create(settings, source)


def test_a_version_whose_maker_died_does_not_exist_and_is_not_overwritten(settings: Settings, adapter: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_die_before_the_end, args=(settings, adapter))
    child.start()
    child.join()
    assert child.exitcode == 9
    assert Registry(settings).versions("assistant") == []
    assert create(settings, adapter).id == "assistant@2"


def test_a_discarded_version_is_gone_and_its_number_is_not_used_again(settings: Settings, adapter: Path) -> None:
    registry, version = Registry(settings), create(settings, adapter)
    registry.discard(version.id)
    assert registry.versions("assistant") == [] and registry.find(version.id) is None
    assert create(settings, adapter).number == version.number + 1
