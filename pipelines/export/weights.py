"""Base and adapter as one model: merged in fp32, saved in the base's precision, measured against the two apart.

Imports torch and peft, so the command line does not import this. Shapes: T tokens of a probe, V vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import accelerate.utils.other
import numpy as np
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pipelines.export.agreement import Agreement, Merged

# Saving a model, transformers lets accelerate unwrap it, which imports DeepSpeed to ask whether it is DeepSpeed's.
accelerate.utils.other.is_deepspeed_available = lambda: False
transformers.utils.logging.disable_progress_bar()

LENGTHS = (1, 7, 32, 200)
"""Tokens of the probes."""
TEXT = """A table for five in Lyon on Friday at 8 pm, please. {"name": "book_table", "arguments": {"city": "Lyon", "guests": 5}}
Was kostet die Fahrt von Köln nach Zürich? - 42.50 EUR, 1st class. def area(r): return 3.14159 * r ** 2  # circle
東京の天気はどうですか。 Play the song again, louder, and switch off the lights in the kitchen; then wake me at half past six.
"""  # noqa: E501
"""What the probes are cut from."""
BESIDE = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "tekken.json",
    "chat_template*", "generation_config.json",
)  # fmt: skip
"""Files of a model's folder that turn text into tokens and tokens into text: always copied as they are."""


@dataclass
class Whole:
    """A version as one model in fp32, and what it must answer."""

    model: PreTrainedModel
    dtypes: dict[str, torch.dtype]
    """Of the parameters as they were before."""
    probes: list[torch.Tensor]
    """Token ids, 1xT each."""
    logits: list[np.ndarray]
    """TxV each, of base and adapter apart."""


def load(base: Path, adapter: Path | None) -> Whole:
    """Base and adapter merged in fp32, or a model that has no adapter. Raises `ValueError` if it cannot be merged."""
    config = json.loads((base / "config.json").read_text())
    if "quantization_config" in config:
        raise ValueError(
            f"{base.name} is quantized and cannot be merged or exported as ONNX; export with --format adapter, or name "
            "its weights in full precision with --base"
        )
    model = _read(base)
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    probes = _probes(base, getattr(model.config, "max_position_embeddings", None))
    model = model.float()
    if adapter is None:
        return Whole(model, dtypes, probes, logits(model, probes))
    tuned = PeftModel.from_pretrained(model, str(adapter))
    expected = logits(tuned.eval(), probes)
    model = tuned.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    Agreement.of(expected, logits(model, probes)).exact("the merged model", "use --format adapter")
    return Whole(model, dtypes, probes, expected)


def merge(base: Path, adapter: Path, out: Path) -> Merged:
    """Write base and adapter into `out` as one model in the base's precision, and measure it as it is read back.

    Raises `ValueError` if rounding took it further from the version than serving in that precision does.
    """
    whole = load(base, adapter)
    for name, weight in whole.model.named_parameters():
        weight.data = weight.data.to(whole.dtypes[name])
    precision = str(whole.model.dtype).removeprefix("torch.")
    whole.model.save_pretrained(out)
    copy(base, out, BESIDE)
    probes, expected = whole.probes, whole.logits
    del whole  # two models of the size may be more than this machine has room for
    saved = Agreement.of(expected, logits(_read(out).float(), probes))
    apart = PeftModel.from_pretrained(_read(base), str(adapter), autocast_adapter_dtype=False)
    served = Agreement.of(expected, logits(apart.eval(), probes))
    return Merged(precision, saved, served).close("use --format adapter")


@torch.no_grad()
def logits(model: torch.nn.Module, probes: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """TxV for each probe of 1xT token ids."""
    return [model(input_ids=probe, use_cache=False).logits[0].float().numpy() for probe in probes]


def copy(source: Path, out: Path, patterns: Sequence[str]) -> None:
    """Copy files by pattern as they are; what `out` has already stays."""
    for file in sorted({file for pattern in patterns for file in source.glob(pattern) if file.is_file()}):
        if not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)


def _read(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True, trust_remote_code=False)
    return model.eval()


def _probes(folder: Path, positions: int | None) -> list[torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    ids = tokenizer(TEXT * 4, add_special_tokens=False)["input_ids"]
    lengths = [length for length in LENGTHS if length <= (positions or length)]
    return [torch.tensor([ids[place : place + length]]) for place, length in enumerate(lengths)]
