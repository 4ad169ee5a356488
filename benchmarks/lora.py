"""`make bench NAME=lora`: an adapter's share of a step on CPU engines, ours beside vLLM's own, on the seed's shapes."""

from __future__ import annotations

import time
from functools import partial

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from benchmarks import compare
from services.lora import GroupedLora

SLOTS, RANK, WIDTH, SLICES = 4, 64, 256, (256, 256, 256)
"""Query, key and value projections of the seed model, as vLLM stacks them."""
REPEATS = 20


def milliseconds(kind: type[PunicaWrapperCPU], adapters: tuple[int, ...]) -> float:
    """One layer's time for a batch in which each token wants the given adapter."""
    generator = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH, generator=generator).bfloat16() for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK, generator=generator).bfloat16() for width in SLICES)
    x = torch.randn(len(adapters), WIDTH, generator=generator).bfloat16()
    y = torch.zeros(len(adapters), sum(SLICES), dtype=torch.bfloat16)
    wrapper = kind(max_num_batched_tokens=4096, max_batches=256, device="cpu")
    wrapper.update_metadata(LoRAMapping(adapters, adapters, is_prefill=True), [1, 2, None, None], SLOTS, 4096)
    began = time.perf_counter()
    for _ in range(REPEATS):
        wrapper.add_lora_linear(y, x, a, b, 1.0, SLICES)
    return 1000 * (time.perf_counter() - began) / REPEATS


def main() -> None:
    for title, adapters in (
        ("8 tokens (a decode step), one adapter, ms", (1,) * 8),
        ("8 tokens, two adapters, ms", (1, 2) * 4),
        ("256 tokens (a prefill), one adapter, ms", (1,) * 256),
    ):
        compare(title, partial(milliseconds, GroupedLora, adapters), partial(milliseconds, PunicaWrapperCPU, adapters))


if __name__ == "__main__":
    main()
