"""The weights of a training: how they come in, what of them is trained, and how they go out.

Never pickles, never code from a model's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pipelines.recipe import TrainingSettings


def load(model: str, parent: str | None, training: TrainingSettings, dtype: torch.dtype) -> Any:
    """A model with what is to be trained of it; `dtype` is that of weights which stay as they are.

    All of a model's weights are trained in fp32, whatever they are multiplied in: a step is often smaller than what
    bf16 can tell apart.
    """
    torch.manual_seed(training.seed)
    if training.weights == "full":
        return _scratch(model) if training.start == "scratch" else _load(parent or model, torch.float32)
    base = _load(model, dtype)
    if parent:
        return PeftModel.from_pretrained(base, parent, is_trainable=True)
    # All linear layers of the blocks. Not the embeddings and the head: vLLM does not serve those in every adapter.
    config = LoraConfig(
        r=training.rank, lora_alpha=training.alpha, target_modules="all-linear", task_type=TaskType.CAUSAL_LM
    )
    # Sharded, all weights are of one type.
    return get_peft_model(base, config, autocast_adapter_dtype=training.parallel == "ddp")


def gather(trainer: Any) -> dict[str, torch.Tensor]:
    """The trained weights, whole, on the first worker; all workers take part."""
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return trainer.accelerator.unwrap_model(trainer.model).state_dict()


def save(
    model: Any, state: dict[str, torch.Tensor], base: str, dtype: torch.dtype, tokenizer: Any, folder: Path
) -> None:
    """A version's files: an adapter, or a model with its tokenizer in the base's `dtype`, as safetensors."""
    if isinstance(model, PeftModel):
        return save_adapter(model, state, base, folder)
    rounded = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=rounded, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return None


def save_adapter(model: PeftModel, state: dict[str, torch.Tensor], base: str, folder: Path) -> None:
    """The trained adapter. Its base is named by its id: paths mean nothing elsewhere."""
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base
    # "all-linear" comes out as every layer's full name; servers look for the last part.
    config.target_modules = sorted({name.rpartition(".")[2] for name in config.target_modules})
    model.save_pretrained(
        str(folder),
        state_dict=state,
        selected_adapters=["default"],
        safe_serialization=True,
        save_embedding_layers=False,
    )


def finite(model: Any) -> bool:
    """Whether all trained weights are numbers."""
    return all(bool(_local(weight).isfinite().all()) for weight in model.parameters() if weight.requires_grad)


def dtype_of(model: str) -> torch.dtype:
    """What the weights on disk are."""
    known = AutoConfig.from_pretrained(model, trust_remote_code=False).dtype
    return known if isinstance(known, torch.dtype) else torch.float32


def _load(model: str, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, use_safetensors=True, trust_remote_code=False)


def _scratch(model: str) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)


def _local(weight: torch.Tensor) -> torch.Tensor:
    """What this worker has of a weight that is shared out (FSDP2's `DTensor`)."""
    return getattr(weight, "_local_tensor", weight)
