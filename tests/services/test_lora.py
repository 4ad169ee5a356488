"""LoRA on CPU engines: every token of a batch gets its own adapter, and none where it asked for none."""

from typing import Any

import pytest

pytestmark = pytest.mark.ray  # it starts none, but importing vLLM takes as long
SLOTS, RANK, INPUTS, SLICES = 3, 4, 8, (6, 10)


@pytest.fixture
def weights(torch) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    torch.manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, INPUTS) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK) for width in SLICES)
    return a, b


# Adapter ids by token, 0 for none; the engine keeps 7 in slot 0 and 9 in slot 2, which -1 would name as well.
@pytest.mark.parametrize("tokens", [(7,) * 5, (0,) * 5, (0, 7, 7, 0, 9), (9, 9, 0, 0, 0)])
def test_each_token_gets_what_its_own_adapter_adds(torch, weights, tokens):
    from vllm.lora.layers import LoRAMapping

    from services.lora import GroupedLora

    a, b = weights
    lora = GroupedLora(max_num_batched_tokens=16, max_batches=8, device="cpu")
    lora.update_metadata(LoRAMapping(tokens, tokens, is_prefill=True), [7, None, 9], SLOTS, 100)
    x, y = torch.randn(len(tokens), INPUTS), torch.randn(len(tokens), sum(SLICES))

    expected = y.clone()
    for row, adapter in enumerate(tokens):
        if adapter:
            slot = {7: 0, 9: 2}[adapter]
            added = [0.5 * x[row] @ a[i][slot, 0].T @ b[i][slot, 0].T for i in range(len(SLICES))]
            expected[row] += torch.cat(added)

    lora.add_lora_linear(y, x, a, b, 0.5, SLICES)
    torch.testing.assert_close(y, expected)


def test_cpu_engines_use_it():
    from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper
    from vllm.platforms import current_platform

    from services.lora import GroupedLora, register

    if not current_platform.is_cpu():
        pytest.skip("a GPU build of vLLM")
    register()
    assert isinstance(get_punica_wrapper(16, 8, "cpu"), GroupedLora)
