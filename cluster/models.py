"""Which files a model is, and whether they may be loaded. Reads headers only: no weights, no torch."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""What `torch.load` reads: loading a pickle runs what is in it."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

Shape = tuple[int, ...]


def resolve(model: str) -> Path | str:
    """Where a base model is: `seed` is the shipped one, a folder is itself, anything else a Hugging Face id.

    Raises `ValueError` if it can be none of them.
    """
    if model == "seed":
        return seed_folder()
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder.absolute()
    if model.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model):
        raise ValueError(f"{model} is neither a folder nor a Hugging Face id; give `seed`, a folder, or OWNER/NAME")
    return model


def base_id(model: str, source: Path | str) -> str:
    """A base's id: `seed`, a Hugging Face id as it is, a folder's last part. `source` is what `resolve` says."""
    if source == seed_folder():
        return "seed"
    return source.name if isinstance(source, Path) else model


def seed_folder() -> Path:
    """The seed model's weights, found without importing what makes them."""
    spec = importlib.util.find_spec("pipelines")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "seed" / "weights"


def check_model(model: Path | str) -> None:
    """Raise `ValueError` with the fix in it if a folder is not a model that may be served. An id is vLLM's to check."""
    if not Path(model).is_dir():
        return
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give a folder that transformers' save_pretrained wrote")
    weights = _weights(folder, "model")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = set(_json(index).get("weight_map", {}).values())
        if absent := sorted(named - {file.name for file in weights}):
            raise ValueError(f"{folder} lacks {absent[0]}, which its index names; copy the model again")
    for file in weights:
        _shapes(file)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ValueError(f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained")


def check_adapter(folder: Path, base: Path | str, max_rank: int) -> None:
    """Raise `ValueError` with the fix in it unless `folder` is a LoRA adapter that this base can serve.

    Whether it belongs to the base shows in its shapes: a folder's name says nothing, the same model has another path on
    another machine. Of a base that is a Hugging Face id only the id is at hand.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} has no adapter_config.json; an adapter is saved by peft's save_pretrained")
    config = _json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        raise ValueError(f"{folder} is not plain LoRA, which is all that vLLM serves; train it without DoRA and so on")
    weights = _weights(folder, "adapter")
    shapes = {name: shape for file in weights for name, shape in _shapes(file).items()}
    ranks = [shape[0] for name, shape in shapes.items() if ".lora_A." in name]
    rank = max([int(config.get("r", 0)), *ranks])
    if rank > max_rank:
        raise ValueError(
            f"the adapter in {folder} has rank {rank} and the engine takes at most {max_rank}; "
            "raise max_lora_rank in the Serve config or train with a lower rank"
        )
    trained_on = str(config.get("base_model_name_or_path") or "")
    if Path(base).is_dir():
        _check_shapes(folder, shapes, Path(base))
    elif _HUB_ID.fullmatch(trained_on) and "/" in trained_on and trained_on != str(base):
        raise ValueError(
            f"the adapter in {folder} was trained on {trained_on}, not on {base}; serve it on its own base"
        )


def _check_shapes(folder: Path, adapter: dict[str, Shape], base: Path) -> None:
    """Every A must take what a weight of the base takes, every B must give what it gives."""
    weights = {name: shape for file in sorted(base.glob("*.safetensors")) for name, shape in _shapes(file).items()}
    packed = "quantization_config" in _json(base / "config.json")  # then shapes are those of the packing
    for name, shape in adapter.items():
        module, part = re.sub(r"^base_model\.model\.", "", name).removesuffix(".weight").rsplit(".", 1)
        if part not in ("lora_A", "lora_B"):
            continue
        target = _weight(weights, module)
        side = {"lora_A": 1, "lora_B": 0}[part]
        if target is None or (not packed and target[side] != shape[side]):
            found = "which the base has not" if target is None else f"which is {target} in the base, not {shape}"
            raise ValueError(f"the adapter in {folder} is of another base than {base}: it changes {module}, {found}")


def _weight(weights: dict[str, Shape], module: str) -> Shape | None:
    """The shape of a module's weight, not of its bias. Files may have other prefixes than modules, and tied or packed
    weights."""
    tail = ".".join(module.split(".")[-4:])  # layers.0.self_attn.q_proj
    names = [module, tail, *(["embed_tokens"] if module == "lm_head" else [])]
    for name, shape in weights.items():
        owner = name.rpartition(".")[0]
        if len(shape) > 1 and any(owner == wanted or owner.endswith(f".{wanted}") for wanted in names):
            return shape
    return None


def _weights(folder: Path, what: str) -> list[Path]:
    files = sorted(folder.glob("adapter_model*.safetensors" if what == "adapter" else "*.safetensors"))
    if not files:
        pickled = [file.name for pattern in PICKLED for file in sorted(folder.glob(pattern))]
        found = f"only pickled weights ({pickled[0]}), which can run code when loaded" if pickled else "no weights"
        raise ValueError(f"{folder} has {found}; save the {what} as safetensors (save_pretrained does)")
    return files


def _shapes(file: Path) -> dict[str, Shape]:
    """Shape by tensor, from the header. safetensors checks that the file is as long as the header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a whole safetensors file ({error}); copy it again") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a JSON object; copy it again")
    return content
