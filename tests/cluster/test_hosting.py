"""Tables: which versions need an application of their own, how it is configured, what changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import hosting
from cluster.decisions import Alias, Rollout
from cluster.records import Version

MODELS = Path("/state/models")
BASE: dict[str, Any] = {
    "name": "assistant",
    "import_path": "services.serving:build",
    "route_prefix": "/",
    "args": {"model": "seed", "alias": "assistant", "replicas": 2, "max_loras": 4, "engine": {"seed": 1}},
    "deployments": [{"name": "Gateway:seed", "max_ongoing_requests": 9}, {"name": "other"}],
}
QWEN = {"name": "qwen", "route_prefix": "/bases/qwen", "args": {"model": "Qwen/Qwen3-4B", "route": "/bases/qwen"}}
ROLLOUT = {"name": "rollout", "route_prefix": "/admin/rollout", "args": {"mode": "direct"}}
CONFIGS = [BASE, QWEN, ROLLOUT]
FULL = {"assistant@2", "assistant@4", "helper.x@1", "lost@1"}
ALIAS = Alias("assistant", "seed", "assistant@3", ("assistant@1", "assistant@2"), staged="assistant@4")


def find(version: str) -> Version | None:
    name, number = version.split("@")
    form: Any = "base" if number == "0" else "full" if version in FULL else "adapter"
    base = {"assistant": "seed", "helper.x": "Qwen/Qwen3-4B"}.get(name, "gone")
    return Version(name=name, number=int(number), base=base, form=form, created=0) if int(number) < 9 else None


def rollout(*aliases: Alias) -> Rollout:
    return Rollout(5, {alias.name: alias for alias in aliases})


@pytest.mark.parametrize(
    ("alias", "needed"),
    [
        (ALIAS, ["assistant@2", "assistant@4"]),  # a rollback leads to 2, 4 is the candidate
        (replace(ALIAS, staged=None), ["assistant@2"]),
        (replace(ALIAS, champion="assistant@2", history=("assistant@1",), staged=None), ["assistant@2"]),
        (replace(ALIAS, champion="assistant@2", history=("assistant@2",), staged="assistant@2"), ["assistant@2"]),
        (replace(ALIAS, champion="assistant@1", history=("assistant@2", "assistant@0"), staged=None), []),
        (replace(ALIAS, champion="assistant@9", history=(), staged=None), []),  # files that are gone
    ],
)
def test_what_may_answer_is_needed(alias: Alias, needed: list[str]) -> None:
    assert [version.id for version in hosting.needed(rollout(alias), find)] == needed


def test_a_version_is_served_as_its_base_is() -> None:
    champion = replace(ALIAS, champion="assistant@2", history=(), staged=None)
    (found,) = hosting.applications(CONFIGS, rollout(champion), find, MODELS)
    assert found == {
        "name": "assistant-v2",
        "import_path": "services.serving:build",
        "route_prefix": "/versions/assistant-v2",
        "args": {
            "model": "/state/models/assistant/2",
            "name": "assistant@2",
            "route": "/versions/assistant-v2",
            "replicas": 2,
            "max_loras": 0,
            "engine": {"seed": 1},
        },
        "deployments": [{"name": "Gateway:assistant-v2", "max_ongoing_requests": 9}, {"name": "other"}],
    }
    assert hosting.hosted(found, MODELS) == "assistant@2"


def test_each_alias_follows_its_own_base() -> None:
    helper = Alias("helper.x", "Qwen/Qwen3-4B", "helper.x@1")
    found = hosting.applications(CONFIGS, rollout(ALIAS, helper, Alias("lost", "gone", "lost@1")), find, MODELS)
    assert [each["name"] for each in found] == ["assistant-v2", "assistant-v4", "helper.x-v1"]
    assert found[2]["args"]["model"] == "/state/models/helper.x/1"
    assert "deployments" not in found[2]


def test_what_somebody_serves_by_hand_is_left_to_him() -> None:
    by_hand = {"name": "big", "route_prefix": "/big", "args": {"model": "/elsewhere", "name": "assistant@2"}}
    found = hosting.applications([*CONFIGS, by_hand], rollout(ALIAS), find, MODELS)
    assert [each["name"] for each in found] == ["assistant-v4"]
    nothing = hosting.plan([*CONFIGS, by_hand], rollout(), find, MODELS)
    assert (nothing.start, nothing.end) == ([], {})
    assert hosting.hosted(by_hand, MODELS) is None


def test_a_plan_starts_what_lacks_ends_what_is_not_needed_and_then_has_nothing_to_do() -> None:
    first = hosting.plan(CONFIGS, rollout(ALIAS), find, MODELS)
    assert [each["name"] for each in first.start] == ["assistant-v2", "assistant-v4"] and first.end == {}
    have = [*CONFIGS, *first.start]
    again = hosting.plan(have, rollout(ALIAS), find, MODELS)
    assert (again.start, again.end) == ([], {})
    later = replace(ALIAS, champion="assistant@4", history=("assistant@1", "assistant@3"), staged=None)
    changed = hosting.plan(have, rollout(later), find, MODELS)
    assert (changed.start, changed.end) == ([], {"assistant@2": "assistant-v2"})


def test_what_answers_outlives_the_application_of_its_base() -> None:
    first = hosting.plan(CONFIGS, rollout(ALIAS), find, MODELS)
    orphans = hosting.plan([ROLLOUT, *first.start], rollout(ALIAS), find, MODELS)
    assert (orphans.start, orphans.end) == ([], {})


def test_changes_of_the_base_by_hand_do_not_disturb_what_runs() -> None:
    first = hosting.plan(CONFIGS, rollout(ALIAS), find, MODELS)
    other = {**BASE, "args": {**BASE["args"], "replicas": 1}}
    again = hosting.plan([other, *first.start], rollout(ALIAS), find, MODELS)
    assert (again.start, again.end) == ([], {}), "`trivium up` brings the change to them"


@pytest.mark.parametrize(
    ("served", "deployment"),
    [
        ("seed", "Gateway:seed"),
        ("Qwen/Qwen2.5-1B", "Gateway:Qwen--Qwen2_5-1B"),
        ("assistant@7", "Gateway:assistant-v7"),
    ],
)
def test_deployments_have_names_that_serve_and_haproxy_take(served: str, deployment: str) -> None:
    assert hosting.deployment_name(served) == deployment
