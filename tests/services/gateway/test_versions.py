"""A table: what a model's name means, seen from the engine that serves `seed`."""

from __future__ import annotations

import pytest

from cluster.decisions import Alias, Rollout
from cluster.records import Version
from services.gateway.versions import Away, Forward, Held, Target, Unknown, resolve

ALIASES = {
    "assistant": Alias("assistant", "seed", "assistant@2", ("assistant@0", "assistant@1"), staged="assistant@3"),
    "fresh": Alias("fresh", "seed", "fresh@0"),
    "other": Alias("other", "qwen", "other@1"),
    "big": Alias("big", "seed", "big@1"),
}
VERSIONS = {
    **{("assistant", n): ("seed", "adapter") for n in (1, 2, 3)},
    ("other", 1): ("qwen", "adapter"),
    ("big", 1): ("seed", "full"),
    ("lost", 1): ("gone", "adapter"),
}


def find(name: str, number: int) -> Version | None:
    if (name, number) not in VERSIONS:
        return None
    base, form = VERSIONS[name, number]
    return Version(name=name, number=number, base=base, form=form, created=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("seed", Held("seed@0", None)),
        ("assistant", Held("assistant@2", "assistant@2", "assistant", "champion")),
        ("fresh", Held("fresh@0", None, "fresh", "champion")),
        ("assistant@0", Held("assistant@0", None)),
        ("assistant@1", Held("assistant@1", "assistant@1")),
        ("assistant@01", Held("assistant@1", "assistant@1")),
        ("assistant@candidate", Held("assistant@3", "assistant@3")),
        ("assistant@champion", Held("assistant@2", "assistant@2")),
        ("fresh@candidate", Unknown()),
        ("qwen", Forward("qwen", "/bases/qwen")),
        ("other", Forward("qwen", "/bases/qwen")),
        ("other@0", Forward("qwen", "/bases/qwen")),
        ("other@1", Forward("qwen", "/bases/qwen")),
        ("big", Forward("big@1", "/bases/big")),
        ("big@1", Forward("big@1", "/bases/big")),
        ("lost@1", Away("gone")),
        ("assistant@9", Unknown()),
        ("nobody", Unknown()),
        ("nobody@0", Unknown()),
        ("../../secrets@1", Unknown()),
        ("assistant@1/../2", Unknown()),
        ("assistant@-1", Unknown()),
        ("assistant@", Unknown()),
    ],
)
def test_names_resolve(model: str, target: Target) -> None:
    routes = {"seed": "", "qwen": "/bases/qwen", "big@1": "/bases/big"}
    assert resolve(model, "seed", Rollout(3, ALIASES), routes, find) == target
