"""A table: what a model's name means, seen from the engine that serves `seed`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.decisions import Alias, Canary, Rollout
from cluster.records import Version
from services.gateway.versions import Away, Forward, Held, Target, Unknown, resolve, shadow

ALIASES = {
    "assistant": Alias("assistant", "seed", "assistant@2", ("assistant@0", "assistant@1"), staged="assistant@3"),
    "fresh": Alias("fresh", "seed", "fresh@0"),
    "other": Alias("other", "qwen", "other@1"),
    "big": Alias("big", "seed", "big@1"),
}
ROUTES = {"seed": "", "qwen": "/bases/qwen", "big@1": "/versions/big-v1"}
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
        ("qwen", Forward("qwen", "/bases/qwen", Held("qwen@0", None))),
        ("other", Forward("qwen", "/bases/qwen", Held("other@1", "other@1", "other", "champion"))),
        ("other@0", Forward("qwen", "/bases/qwen", Held("other@0", None))),
        ("other@1", Forward("qwen", "/bases/qwen", Held("other@1", "other@1"))),
        ("big", Forward("big@1", "/versions/big-v1", Held("big@1", None, "big", "champion"))),
        ("big@1", Forward("big@1", "/versions/big-v1", Held("big@1", None))),
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
    assert resolve(model, "seed", Rollout(3, ALIASES), ROUTES, find, "session") == target


@pytest.mark.parametrize(
    ("model", "target"),
    [
        ("big", Held("big@1", None, "big", "champion")),
        ("big@1", Held("big@1", None)),
        ("big@champion", Held("big@1", None)),
        ("assistant", Forward("seed", "", Held("assistant@2", "assistant@2", "assistant", "champion"))),
        ("big@0", Forward("seed", "", Held("big@0", None))),
    ],
)
def test_names_resolve_where_a_version_has_its_own_engine(model: str, target: Target) -> None:
    assert resolve(model, "big@1", Rollout(3, ALIASES), ROUTES, find, "session") == target


def arms(canary: Canary, sessions: int = 2000) -> dict[str, list[Target]]:
    """What sessions of an alias get while its candidate has a canary: the user's answer, and the unseen one."""
    rollout = Rollout(3, {"assistant": replace(ALIASES["assistant"], canary=canary)})
    asked = [f"session-{n}" for n in range(sessions)]
    return {
        "answers": [resolve("assistant", "seed", rollout, {}, find, session) for session in asked],
        "shadows": [shadow("assistant", "seed", rollout, {}, find, session) for session in asked],  # type: ignore[misc]
    }


def test_a_canary_answers_its_share_of_the_sessions_and_always_the_same() -> None:
    first, again = arms(Canary(0.1, 0.0, "a")), arms(Canary(0.1, 0.0, "a"))
    candidate = Held("assistant@3", "assistant@3", "assistant", "candidate")
    champion = Held("assistant@2", "assistant@2", "assistant", "champion")
    assert set(first["answers"]) == {candidate, champion}
    assert 150 < first["answers"].count(candidate) < 250
    assert first == again and set(first["shadows"]) == {None}


def test_a_share_that_grows_keeps_who_it_has_and_another_canary_draws_others() -> None:
    def drawn(canary: Canary) -> set[int]:
        return {n for n, target in enumerate(arms(canary)["answers"]) if target.arm == "candidate"}  # type: ignore[union-attr]

    few, many, others = (drawn(Canary(*each)) for each in ((0.1, 0.0, "a"), (0.5, 0.0, "a"), (0.1, 0.0, "b")))
    assert few < many and 900 < len(many) < 1100
    assert len(few & others) < 60, "about a tenth of a tenth"


def test_a_shadow_answers_beside_the_champion() -> None:
    seen = arms(Canary(0.5, 0.0, "a", shadow=True))
    assert set(seen["answers"]) == {Held("assistant@2", "assistant@2", "assistant", "champion")}
    assert set(seen["shadows"]) == {None, Held("assistant@3", "assistant@3", "assistant", "shadow")}
    assert 900 < seen["shadows"].count(None) < 1100


def test_who_names_a_version_never_meets_a_canary() -> None:
    rollout = Rollout(3, {"assistant": replace(ALIASES["assistant"], canary=Canary(0.999, 0.0, "a"))})
    assert resolve("assistant@2", "seed", rollout, {}, find, "x") == Held("assistant@2", "assistant@2")
    assert resolve("assistant@champion", "seed", rollout, {}, find, "x") == Held("assistant@2", "assistant@2")


@pytest.mark.parametrize("shadow_only", [False, True])
def test_a_candidate_with_its_own_engine_is_drawn_as_any_other(shadow_only: bool) -> None:
    canary = Canary(0.999999, 0.0, "a", shadow=shadow_only)
    rollout = Rollout(3, {"big": Alias("big", "seed", "big@0", staged="big@1", canary=canary)})
    answered = resolve("big", "seed", rollout, ROUTES, find, "x")
    unseen = shadow("big", "seed", rollout, ROUTES, find, "x")
    champion = Held("big@0", None, "big", "champion")
    if shadow_only:
        assert answered == champion
        assert unseen == Forward("big@1", "/versions/big-v1", Held("big@1", None, "big", "shadow"))
    else:
        assert answered == Forward("big@1", "/versions/big-v1", Held("big@1", None, "big", "candidate"))
        assert unseen is None
    assert shadow("big", "seed", rollout, {}, find, "x") is None, "nobody has it yet"
