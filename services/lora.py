"""LoRA on vLLM's CPU engine: one product of matrices for each adapter in a batch.

vLLM 0.32 gathers an adapter's matrices anew for every token (`vllm/lora/ops/torch_ops/lora_ops.py`): with rank 64 that
costs more than the seed model itself. It also reads slot -1, the last one, for tokens that want no adapter as soon as
another request of the batch wants one. vLLM loads `register` as a plugin in each of its processes (`pyproject.toml`).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform


def register() -> None:
    """Make CPU engines use `GroupedLora`; other platforms have kernels of their own."""
    wrapper = classmethod(lambda cls: f"{__name__}.{GroupedLora.__name__}")
    CpuPlatform.get_punica_wrapper = wrapper  # type: ignore[method-assign, assignment]


class GroupedLora(PunicaWrapperCPU):
    """Adapters for the linear layers, the only ones that `peft` adapts by our recipes."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Note once for each batch which of its tokens use which adapter; every layer asks."""
        super().update_metadata(*args, **kwargs)
        slots_T = self.token_lora_indices
        used = [slot for slot in slots_T.unique().tolist() if slot >= 0]
        every = len(used) == 1 and bool((slots_T >= 0).all())
        self._groups = [(slot, None if every else (slots_T == slot).nonzero()[:, 0]) for slot in used]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """`y += x A B scale`, in place. `x`: (tokens, inputs), `y`: (tokens, outputs of all slices side by side).

        Of each slice, `lora_a_stacked` has (slots, 1, rank, inputs) and `lora_b_stacked` (slots, 1, outputs, rank).
        """
        x_TI, y_TO = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        for slot, tokens in self._groups:
            x_GI = x_TI if tokens is None else x_TI[tokens]
            start = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                a_RI, b_WR = a[slot, 0], b[slot, 0]
                added_GW = (x_GI @ a_RI.T).mul_(scale) @ b_WR.T
                part_TW = y_TO[:, start : start + width]
                if tokens is None:
                    part_TW += added_GW
                else:
                    part_TW.index_add_(0, tokens, added_GW)
                start += width

    def add_lora_logits(self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """As vLLM has it for the tokens that are sampled; nothing for those of a prompt (`echo` with `logprobs`).

        vLLM 0.32 looks up the adapters of the former whatever it is asked, and ends the engine where their numbers
        differ: one request of any caller would do. Our adapters have nothing for the head.
        """
        if x.view(-1, x.shape[-1]).shape[0] == self.sampler_indices.shape[0]:
            super().add_lora_logits(y, x, *args, **kwargs)
