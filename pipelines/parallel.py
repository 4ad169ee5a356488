"""How workers share a training: the arguments that Hugging Face's trainer takes for it, and sharding on CPUs.

FSDP2: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html. ZeRO: Rajbhandari et al., 2020
(https://arxiv.org/abs/1910.02054), as DeepSpeed has it.
"""

from __future__ import annotations

from typing import Any

import accelerate.utils.other
import torch
from accelerate.state import DistributedType, PartialState

from pipelines.recipe import TrainingSettings


def arguments(training: TrainingSettings, bf16: bool) -> dict[str, Any]:
    """What `TrainingArguments` takes beside all else, for the recipe's `parallel`."""
    cpu = not torch.cuda.is_available()
    match training.parallel:
        case "ddp":
            # Unwrapping a model, accelerate imports DeepSpeed to ask whether it is DeepSpeed's: 4 s at the first step.
            accelerate.utils.other.is_deepspeed_available = lambda: False
            return {"use_cpu": cpu, "ddp_find_unused_parameters": False}
        case "fsdp2":
            chosen: dict[str, Any] = {
                "fsdp": True,
                "fsdp_config": {
                    "version": 2,
                    "reshard_after_forward": True,
                    "cpu_offload": training.offload,
                    "state_dict_type": "SHARDED_STATE_DICT",
                },
            }
        case stage:
            chosen = {"deepspeed": _deepspeed(int(stage[-1]), training.offload and not cpu, bf16)}
            if cpu:
                import deepspeed.comm.torch

                # An extension that DeepSpeed would compile, for a minute, to share memory on one machine; gloo does.
                deepspeed.comm.torch.build_shm_op = lambda: None
    if cpu:
        _shard_on_cpus()
    return chosen


def bf16(training: TrainingSettings) -> bool:
    """Whether to multiply in bf16. Without instructions for it, it is emulated and slower than fp32."""
    if training.precision != "auto":
        return training.precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    able = torch.cpu.get_capabilities()
    return training.parallel == "ddp" and bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _deepspeed(stage: int, offload: bool, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's settings. Its optimizer is the trainer's own: all ways to share a training take equal steps."""
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # as they are held: in fp32 where that is trained in
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bf16},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def _shard_on_cpus() -> None:
    """Let accelerate shard here: it does so on accelerators only, and its check is on the kind of device.

    For the rest of this process the workers' CPUs are a kind of accelerator that is reached through gloo.
    """

    def backend(self: Any, *_: Any, **__: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_XPU

    def device(self: Any) -> None:
        self.device = torch.device("cpu")

    PartialState._prepare_backend = backend  # type: ignore[method-assign]
    PartialState.set_device = device  # type: ignore[method-assign]
