"""Attention over packs that computes what the tree lets look, and nothing else: each row its prefix and itself.

Under a mask over a whole pack most scores are computed to be thrown away, 86 % in the seed model's packs of 512 tokens;
on two CPU cores attention was 40 % of a training step. Here the rows of a micro-batch are gathered by length and attend
as a batch behind their prefixes, as "Hydragen" (Juravsky et al., 2024) does in decoding. Registered with transformers,
as any model's `attn_implementation`.

Shapes: B packs of T tokens, R rows of at most L tokens behind prefixes of at most P, K = P + L, H heads of D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipelines import packing

NAME = "packed"
STEP = 32
"""Rows are batched with those of the same length in steps of so many tokens."""
SHORT = 2**16
"""Scores of a row and head up to which they are kept: on a CPU a step took 0.67 s so, 0.80 s with the flash kernel, one
run each. Those of longer rows would fill the memory. The bound itself is a choice, not a measurement."""


def layout(packs: Sequence[packing.Pack], length: int) -> dict[str, Any]:
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


def take_packs(model: Any, examples: Sequence[packing.Example], pad: int) -> str | None:
    """Switch the model to attention over packs; or say why it has to have plain rows, and leave it as it was.

    Measured, not read off a list of architectures. A model that computes its attention by itself, or that has states
    besides attention, mixes rows up. A sliding window shorter than a row would see the wrong tokens as well.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < max(len(example) for example in examples):
        return f"the model's window of {window} tokens is shorter than a row"
    few = sorted(examples, key=len)[:4]
    together = packing.pack(few, 4 * len(few[-1]))[0]
    usual, alone = config._attn_implementation, _answers(model, [packing.pad([example], pad) for example in few])
    close = 0.02 * alone.std().clamp(min=1e-6)  # bf16 noise came to 0.01 of the spread, a mask that is ignored to 0.17
    try:
        model.set_attn_implementation(NAME)
        packs = (together, *_disturb(together))
        all_of_it, others, disturbed = (_answers(model, [packing.collate([pack], pad)]) for pack in packs)
        if (all_of_it - alone).abs().mean() < close and torch.equal(others, disturbed):
            return None
        refusal = "rows in a pack disturb each other in this model"
    except (TypeError, ValueError, RuntimeError) as error:
        refusal = f"the model takes no packs ({str(error).splitlines()[0][:100]})"
    model.set_attn_implementation(usual)
    return refusal


def _disturb(pack: packing.Pack) -> tuple[packing.Pack, packing.Pack]:
    """The pack without the labels of its first row, and the same with that row's tokens in reverse: a state that runs
    through the pack, however faint, tells the other rows."""
    first = [at for at, row in enumerate(zip(pack.group, pack.row, strict=True)) if row == (pack.group[0], 1)]
    labels, ids = list(pack.labels), list(pack.input_ids)
    for at, opposite in zip(first, reversed(first), strict=True):
        labels[at], ids[at] = packing.IGNORE, pack.input_ids[opposite]
    return replace(pack, labels=labels), replace(pack, labels=labels, input_ids=ids)


def _answers(model: Any, batches: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Log probabilities of all answer tokens, in an order that does not depend on that of the rows."""
    scored: list[tuple[int, float]] = []
    for batch in batches:
        batch = send_to_device(batch, model.device)
        labels_T = batch.pop("labels")[0, 1:]
        with torch.no_grad():
            logits_TV = model(**batch, use_cache=False).logits[0, :-1].float()
        at = labels_T != packing.IGNORE
        found_K = logits_TV[at].log_softmax(-1).gather(1, labels_T[at, None])[:, 0]
        scored += zip(labels_T[at].tolist(), found_K.tolist(), strict=True)
    return torch.tensor([value for _, value in sorted(scored)])
