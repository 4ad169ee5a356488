"""Adapters for the seed model: of the right shapes, with small random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from cluster import models
from cluster.records import Version
from cluster.registry import Registry
from cluster.settings import Settings

RANK = 64
"""The default recipe's."""


def write(folder: Path, seed: int) -> Path:
    """A LoRA adapter as peft saves one, on every linear layer; 6 MB."""
    base = json.loads((models.seed_folder() / "config.json").read_text())
    hidden, inner = base["hidden_size"], base["intermediate_size"]
    heads = base["num_attention_heads"] * base["head_dim"]
    shapes = {  # (outputs, inputs)
        **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), (heads, hidden)),
        "self_attn.o_proj": (hidden, heads),
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (inner, hidden)),
        "mlp.down_proj": (hidden, inner),
    }
    random, weights = numpy.random.default_rng(seed), dict[str, numpy.ndarray]()
    for layer in range(base["num_hidden_layers"]):
        for name, (outputs, inputs) in shapes.items():
            module = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{module}.lora_A.weight"] = random.normal(0, 0.02, (RANK, inputs)).astype(numpy.float32)
            weights[f"{module}.lora_B.weight"] = random.normal(0, 0.02, (outputs, RANK)).astype(numpy.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "bias": "none",
        "target_modules": [name.partition(".")[2] for name in shapes],
        "base_model_name_or_path": "seed",
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def register(settings: Settings, source: Path) -> Version:
    """The adapter as the next version of `assistant`."""
    return Registry(settings).create("assistant", "seed", "adapter", RANK, None, None, source)
