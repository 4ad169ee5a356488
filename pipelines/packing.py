"""Shared-prefix packing: rows about one toolset are trained behind a single copy of its tokens.

A prompt is mostly its tools; rows that offer the same tools share that prefix. A pack holds the prefix once and the
rows behind it: a row attends to the prefix and to itself, and its positions go on from the prefix, so that loss and
gradients are those of the rows by themselves, at a third to a fifth of the tokens: causal attention over a tree of
depth two (`attention`).

Shapes: B packs, T tokens of a pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

IGNORE = -100
"""The label that cross entropy leaves out (torch's default `ignore_index`)."""


@dataclass(frozen=True)
class Example:
    """Token ids of one row: what the model reads, and what it has to say (with the end of its turn)."""

    prompt_ids: list[int]
    answer_ids: list[int]
    row_id: str = ""
    read: tuple[tuple[int, int], ...] = ()
    """Stretches of the answer, from and to, that it only read: what its calls came to, what the user said next."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)

    @property
    def labels(self) -> list[int]:
        """Of the answer: what the model has to say, and `IGNORE` where it reads."""
        labels = list(self.answer_ids)
        for start, end in self.read:
            labels[start:end] = [IGNORE] * (end - start)
        return labels

    @property
    def row_ids(self) -> list[str]:
        return [self.row_id]


@dataclass
class Pack:
    """Rows laid out one behind the other. `group` and `row` say who may attend to whom; row 0 is a group's prefix."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    row_ids: list[str] = field(default_factory=list)
    """Which rows of the dataset are in it."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def add(self, ids: Sequence[int], labels: Sequence[int], start: int, group: int, row: int) -> None:
        self.input_ids += ids
        self.labels += labels
        self.position_ids += range(start, start + len(ids))
        self.group += [group] * len(ids)
        self.row += [row] * len(ids)


def _shared(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    limit = min(limit, len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def families(examples: Sequence[Example]) -> list[tuple[int, list[int]]]:
    """(length of the shared prefix, indices) of rows worth packing together, in order of first appearance.

    In sorted order rows of one toolset are neighbours; one joins a family while sharing saves tokens and covers at
    least half of its prompt. Every row keeps one prompt token of its own, whose output predicts the first answer token.
    """
    found: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(examples)), key=lambda i: examples[i].prompt_ids):
        prompt = examples[index].prompt_ids
        if found:
            prefix, members = found[-1]
            shared = _shared(examples[members[0]].prompt_ids, prompt, min(prefix, len(prompt) - 1))
            if len(members) * shared >= (len(members) - 1) * prefix and 2 * shared >= min(len(prompt), prefix):
                found[-1] = (shared, [*members, index])
                continue
        found.append((len(prompt) - 1, [index]))
    return sorted(((prefix if len(m) > 1 else 0, sorted(m)) for prefix, m in found), key=lambda f: f[1][0])


def pack(examples: Sequence[Example], max_tokens: int) -> list[Pack]:
    """Lay rows out in packs of at most `max_tokens`, in the given order within each toolset.

    Raises `ValueError` for a row that is longer than a pack; `fitting` leaves those out and counts them.
    """
    for example in examples:
        if len(example) > max_tokens:
            raise ValueError(
                f"a row has {len(example)} tokens, a pack holds {max_tokens}; "
                "leave it out (`fitting`) or take larger packs"
            )
    packs: list[Pack] = []
    groups = 0
    for prefix, members in families(examples):
        opened = False
        row = 0
        for index in members:
            ids = examples[index].prompt_ids + examples[index].answer_ids
            if not packs or len(packs[-1]) + len(ids) - (prefix if opened else 0) > max_tokens:
                packs.append(Pack())
                opened = False
            if not opened:
                groups, row, opened = groups + 1, 0, True
                packs[-1].add(ids[:prefix], [IGNORE] * prefix, 0, groups, 0)
            row += 1
            packs[-1].row_ids.append(examples[index].row_id)
            asked = len(examples[index].prompt_ids) - prefix
            packs[-1].add(ids[prefix:], [IGNORE] * asked + examples[index].labels, prefix, groups, row)
    return packs


def fitting(examples: Sequence[Example], max_tokens: int) -> tuple[list[Example], int]:
    """The rows that a pack can hold, and how many were left out."""
    kept = [example for example in examples if len(example) <= max_tokens]
    return kept, len(examples) - len(kept)


def collate(packs: Sequence[Pack], pad_token_id: int) -> dict[str, Any]:
    """Arguments for any Hugging Face causal model whose `attn_implementation` is `attention.NAME`.

    Returns `input_ids`, `position_ids`, `labels` (B, T; labels unshifted, as the models shift them) and the `layout`
    of who may attend to whom.
    """
    import torch

    from pipelines.attention import layout

    length = max(len(p) for p in packs)

    def grid(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([getattr(p, name) + [fill] * (length - len(p)) for p in packs])

    return {
        "input_ids": grid("input_ids", pad_token_id),
        "position_ids": grid("position_ids", 0),
        "labels": grid("labels", IGNORE),
        "layout": layout(packs, length),
    }


def pad(examples: Sequence[Example], pad_token_id: int) -> dict[str, Any]:
    """The same for a model that takes no packs: rows as they are, `attention_mask` (B, T) instead of a layout."""
    import torch

    length = max(map(len, examples))

    def grid(rows: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (length - len(row)) for row in rows])

    return {
        "input_ids": grid([e.prompt_ids + e.answer_ids for e in examples], pad_token_id),
        "attention_mask": grid([[1] * len(e) for e in examples], 0),
        "labels": grid([[IGNORE] * len(e.prompt_ids) + e.labels for e in examples], IGNORE),
    }
