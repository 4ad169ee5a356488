"""A version leaves the house: as merged weights, as an adapter, or as ONNX, with a card that says where it comes from.

Reads what is under state alone, so it works while nothing runs. Everything is checked before the folder gets its name:
a folder under the name that was asked for is whole, and answers as the version does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster import durable, models
from cluster.decisions import fold, read
from cluster.records import Version
from cluster.registry import ADAPTER_FILES, MOST_RANK, Registry
from cluster.settings import Settings
from pipelines.export import card

if TYPE_CHECKING:
    from pipelines.export.agreement import Agreement, Merged

    Measured = Agreement | Merged | None

Format = Literal["merged", "adapter", "onnx"]
FILES = ("*.safetensors", "model.safetensors.index.json", "config.json")
"""Weights as they are: these, and what turns text into tokens (`weights.BESIDE`)."""
HUB = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")
"""What is fetched of a base that is named by its Hugging Face id: nothing that runs code."""


def export(
    settings: Settings, name: str, form: Format, out: Path, base: str | None = None, say: Callable[[str], None] = print
) -> Path:
    """Write a version, `assistant@3`, or an alias's champion, into the folder `out`, which it returns.

    `base` says where the weights of the version's base are, if its id does not: a folder, or a Hugging Face id. Raises
    `ValueError` for a version that is not there, torn, or cannot have this form, for a base that is not at hand, for a
    folder that is occupied, and if what was written answers otherwise than the version.
    """
    registry, target = Registry(settings), out.expanduser().resolve()
    version = registry.get(name if "@" in name else _champion(settings, name))
    if form == "adapter" and version.form != "adapter":
        what = "the base itself" if version.form == "base" else "a version of full weights"
        raise ValueError(f"{version.id} is {what} and has no adapter; use --format merged or --format onnx")
    try:
        with durable.create_folder(target) as folder:
            registry.check(version)
            model = _model(registry, version, base, needed=form != "adapter")
            adapter = registry.folder(version) if version.form == "adapter" else None
            if adapter:
                models.check_adapter(adapter, model or version.base, version.rank or MOST_RANK)
            say(f"{version.id}: {_checked(version)}")
            measured = _write(form, model, adapter, version, folder)
            if measured:
                say(measured.told())
            card.write(settings, version, form, measured, model, target.name, folder)
            for file in folder.iterdir():
                file.chmod(0o644)  # safetensors makes files that nobody else may read
    except FileExistsError:
        raise ValueError(f"{out} is there and not an empty folder; name one that is not there yet") from None
    return target


def _write(form: Format, model: Path | None, adapter: Path | None, version: Version, folder: Path) -> Measured:
    """Fill the folder. Returns what was measured of it: None where files were copied as they are."""
    if form == "adapter":
        assert adapter
        _copy_adapter(adapter, version, folder)
        return None
    assert model
    from pipelines.export import weights

    if form == "onnx":
        from pipelines.export import graph

        return graph.convert(model, adapter, folder)
    if adapter:
        return weights.merge(model, adapter, folder)
    weights.copy(model, folder, (*FILES, *weights.BESIDE))
    return None


def _copy_adapter(adapter: Path, version: Version, folder: Path) -> None:
    """The weights as they are; the base under its id, because a path of this machine means nothing on another."""
    config_name, weights_name = ADAPTER_FILES
    config: dict[str, Any] = json.loads((adapter / config_name).read_text())
    config["base_model_name_or_path"] = version.base
    (folder / config_name).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copyfile(adapter / weights_name, folder / weights_name)


def _checked(version: Version) -> str:
    if version.form == "base":
        return f"the base {version.base} itself"
    sound = "its files are as they were registered" if version.files else "no digests of its files were kept"
    return f"{version.form} of {version.base}, {sound}"


def _champion(settings: Settings, alias: str) -> str:
    aliases = fold(read(settings.state)).aliases
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none yet"
        raise ValueError(f"there is no alias {alias} (known: {known}); name one, or a version such as assistant@2")
    return aliases[alias].champion


def _model(registry: Registry, version: Version, base: str | None, needed: bool) -> Path | None:
    """The folder with a version's own full weights, or with its base's. None if it is not at hand and not needed."""
    if version.form == "full":
        if base:
            raise ValueError(f"{version.id} has full weights of its own and needs no base; leave --base out")
        folder = registry.folder(version)
    elif base or version.base == "seed" or (needed and "/" in version.base):
        folder = _at_hand(base or version.base)
    elif needed:
        raise ValueError(f"the weights of {version.base} are needed; say with --base where: a folder, or OWNER/NAME")
    else:
        return None
    models.check_model(folder)
    return folder


def _at_hand(model: str) -> Path:
    found = models.resolve(model)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(found, allow_patterns=list(HUB)))
    except OSError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{found} cannot be fetched ({reason}); give its folder with --base") from None
