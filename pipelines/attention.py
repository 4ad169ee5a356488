"""Attention over packs that computes what the tree lets look, and nothing else: each row its prefix and itself.

Under a mask over a whole pack nine of ten scores are computed to be thrown away; on two CPU cores that was 40 % of a
training step. Here the rows of a micro-batch are gathered by length and attend as a batch behind their prefixes, as
"Hydragen" (Juravsky et al., 2024) does in decoding. Registered with transformers, as any model's `attn_implementation`.

Shapes: B packs of T tokens, R rows of at most L tokens behind prefixes of at most P, K = P + L, H heads of D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

if TYPE_CHECKING:
    from pipelines.packing import Pack

NAME = "packed"
STEP = 32
"""Rows are batched with those of the same length in steps of so many tokens."""
SHORT = 2**16
"""Scores of a row and head up to which they are kept: on CPUs twice as fast as the flash kernel, whose blocks short
rows do not fill. Those of longer rows would fill the memory."""


def layout(packs: Sequence[Pack], length: int) -> dict[str, Any]:
    """Who attends to whom in `packs`, each padded to `length` tokens.

    `batches`: dicts with `queries` (R, L) and `keys` (R, K), places among the B * T tokens, and `mask` (R, 1, L, K),
    True where a query may look. `order` (B * T) finds each token's place among the batches' R * L results.
    """
    batches: dict[int, list[tuple[list[int], list[int]]]] = {}
    for at, pack in enumerate(packs):
        places: dict[tuple[int, int], list[int]] = {}
        for place, key in enumerate(zip(pack.group, pack.row, strict=True), at * length):
            places.setdefault(key, []).append(place)
        for (group, row), own in places.items():
            prefix = places.get((group, 0), []) if row else []
            batches.setdefault(len(own) // STEP, []).append((own, prefix))
    order, results, done = torch.zeros(len(packs) * length, dtype=torch.long), [], 0
    for rows in batches.values():
        L, P = max(len(own) for own, _ in rows), max(len(prefix) for _, prefix in rows)
        queries = torch.zeros(len(rows), L, dtype=torch.long)
        keys = torch.zeros(len(rows), P + L, dtype=torch.long)
        mask = torch.zeros(len(rows), 1, L, P + L, dtype=torch.bool)
        mask[..., P:] = torch.ones(L, L, dtype=torch.bool).tril()
        for at, (own, prefix) in enumerate(rows):
            queries[at, : len(own)] = torch.tensor(own)
            keys[at, P:] = queries[at]
            keys[at, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
            mask[at, ..., : len(prefix)] = True
            order[own] = torch.arange(done + at * L, done + at * L + len(own))
        results.append({"queries": queries, "keys": keys, "mask": mask})
        done += len(rows) * L
    return {"batches": results, "order": order}


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    layout: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form: query (B, H, T, D), key and value with H or fewer heads, result (B, T, H, D)."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    B, H, T, D = query.shape

    def gathered(states_BHTD: torch.Tensor, places_RL: torch.Tensor) -> torch.Tensor:
        flat = states_BHTD.transpose(1, 2).reshape(B * T, -1)
        return flat.index_select(0, places_RL.flatten()).view(*places_RL.shape, -1, D).transpose(1, 2)

    scale = D**-0.5 if scaling is None else scaling
    results = []
    for rows in layout["batches"]:
        query_RHLD = gathered(query, rows["queries"])
        key_RHKD, value_RHKD = (
            gathered(states, rows["keys"]).repeat_interleave(H // states.shape[1], dim=1) for states in (key, value)
        )
        if query.device.type == "cpu" and rows["mask"][0].numel() <= SHORT:
            scores_RHLK = (query_RHLD @ key_RHKD.transpose(2, 3)).masked_fill(~rows["mask"], float("-inf"))
            weights_RHLK = (scores_RHLK * scale).softmax(-1, dtype=torch.float32).to(query.dtype)
            result_RHLD = weights_RHLK @ value_RHKD
        else:
            result_RHLD = F.scaled_dot_product_attention(
                query_RHLD, key_RHKD, value_RHKD, attn_mask=rows["mask"], scale=scale
            )
        results.append(result_RHLD.transpose(1, 2).reshape(-1, H * D))
    return torch.cat(results).index_select(0, layout["order"]).view(B, T, H, D), None


AttentionInterface.register(NAME, attend)
