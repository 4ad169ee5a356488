"""Which decision may follow which state of an alias. Pure: `rollout.py` writes what is legal, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.decisions import Alias, Rollout, fold
from cluster.records import Decision, Evidence, Verdict
from cluster.registry import parse

Action = Literal["create", "stage", "canary", "promote", "reject", "rollback"]


@dataclass(frozen=True)
class Draft:
    """A decision as somebody asks for it: not yet legal, not yet numbered."""

    action: Action
    alias: str
    actor: str
    reason: str
    version: str | None = None
    """Needed except for a rollback, where it says to which version: then asking twice goes back only once."""
    base: str | None = None
    """Base of `version`; a rollback takes the alias's."""
    verdict: Verdict | None = None
    share: float | None = None
    shadow: bool = False
    evidence: Evidence | None = None


def admit(rollout: Rollout, draft: Draft, now: float) -> Decision:
    """The decision that follows from a request in this state. Raises `ValueError`, one sentence, if it is not legal."""
    alias = rollout.aliases.get(draft.alias)
    if draft.action == "create":
        if alias is not None:
            raise ValueError(
                f"the alias {alias.name} serves {alias.base} already, not {draft.base}; "
                "choose another alias, or another state folder (TRIVIUM_STATE)"
            )
        return _decision(rollout, draft, draft.version or f"{draft.alias}@0", draft.base or "", now)
    if alias is None:
        known = ", ".join(rollout.aliases) or "none yet"
        raise ValueError(f"there is no alias {draft.alias}; there are: {known}")
    version = _former(alias, draft.version) if draft.action == "rollback" else draft.version
    if version is None or parse(version)[0] != alias.name:
        raise ValueError(f"{draft.action} needs a version of {alias.name}, such as {alias.name}@1, not {version}")
    if draft.base is not None and draft.base != alias.base:
        raise ValueError(f"{version} was made for {draft.base}, but {alias.name} serves {alias.base}")
    match draft.action:
        case "stage" | "canary" if version == alias.champion:
            raise ValueError(f"{version} is the champion of {alias.name} already")
        case "stage" if alias.canary and version != alias.staged:
            raise ValueError(f"{alias.staged} is in its canary; wait for its end, or `trivium reject {alias.staged}`")
        case "canary" if version != alias.staged:
            raise ValueError(f"{version} is not staged, {alias.staged or 'nothing'} is: another decision came between")
        case "canary" if draft.share is None:
            raise ValueError("a canary needs the share of the sessions that it answers, such as 0.1")
        case "promote" if version != alias.staged:
            raise ValueError(f"{version} is not staged, {alias.staged or 'nothing'} is: another decision came between")
        case "reject" if version != alias.staged:
            raise ValueError(f"{version} cannot be rejected, because it is not staged; {alias.staged or 'nothing'} is")
    return _decision(rollout, draft, version, alias.base, now)


def settled(decisions: Sequence[Decision], draft: Draft) -> Decision | None:
    """The decision that already brought about what is asked for, so that a repeated request is harmless."""
    alias = fold(decisions).aliases.get(draft.alias)
    about = [d for d in decisions if d.alias == draft.alias and draft.version in (None, d.version)]
    if alias is None or not about:
        return None
    holds = {
        "create": alias.base == draft.base,
        "stage": draft.version in (alias.staged, alias.champion),
        "canary": alias.staged == draft.version and _runs(alias, draft),
        "promote": alias.champion == draft.version,
        "reject": about[-1].action == "reject" and alias.staged != draft.version,
        "rollback": about[-1].action == "rollback" and alias.champion == draft.version,
    }[draft.action]
    crowned = ("create", "promote", "rollback")
    by: dict[str, tuple[str, ...]] = {"promote": crowned, "stage": ("stage", *crowned)}
    made = [d for d in about if d.action in by.get(draft.action, (draft.action,))]
    return made[-1] if holds and made else None


def _runs(alias: Alias, draft: Draft) -> bool:
    return alias.canary is not None and (alias.canary.share, alias.canary.shadow) == (draft.share, draft.shadow)


def _former(alias: Alias, version: str | None) -> str:
    if not alias.history:
        raise ValueError(f"{alias.name} has never been promoted, so there is nothing to roll back to")
    if version not in (None, alias.history[-1]):
        raise ValueError(f"a rollback of {alias.name} leads to {alias.history[-1]}, not {version}; use promote instead")
    return alias.history[-1]


def _decision(rollout: Rollout, draft: Draft, version: str, base: str, now: float) -> Decision:
    return Decision(
        sequence=rollout.sequence + 1,
        time=now,
        action=draft.action,
        alias=draft.alias,
        version=version,
        base=base,
        actor=draft.actor,
        reason=draft.reason,
        verdict=draft.verdict,
        share=draft.share,
        shadow=draft.shadow,
        evidence=draft.evidence,
    )
