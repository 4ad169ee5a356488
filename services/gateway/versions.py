"""What a model's name means: an alias, a version or a base; and which engine has it. Pure, but for `version.json`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.decisions import Alias, Rollout
from cluster.records import Version
from services.gateway.call import Arm, Routed

_VERSION = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127})@(?P<number>\d{1,9}|champion|candidate)")


@dataclass(frozen=True)
class Held:
    """This engine answers."""

    version: str
    """What the record says: `name@n`."""
    adapter: str | None
    """Version id of the adapter that the engine needs; None for the engine's own weights."""
    alias: str | None = None
    arm: Arm = "direct"


@dataclass(frozen=True)
class Forward:
    """Another application of the cluster answers."""

    served: str
    """The base, or the full-weight version, that the other application serves."""
    prefix: str
    """The other application's route prefix."""
    held: Held
    """What it is to the other application."""

    def routed(self, shadow_of: str | None = None) -> Routed:
        """The same, as the other application's gateway is told it."""
        held = self.held
        return Routed(self.served, held.version, held.adapter, held.alias, held.arm, shadow_of)


@dataclass(frozen=True)
class Away:
    """The version exists, but no application serves its base."""

    served: str


@dataclass(frozen=True)
class Unknown:
    """Nothing has that name."""


Target = Held | Forward | Away | Unknown
Find = Callable[[str, int], Version | None]


def resolve(model: str, served: str, rollout: Rollout, routes: Mapping[str, str], find: Find, session: str) -> Target:
    """Where a request for `model` goes, seen from the engine that serves `served`.

    `routes` says which route prefix has which base or full-weight version. `session` decides who meets a canary.
    """
    if alias := rollout.aliases.get(model):
        candidate = _drawn(alias, session, shadow=False)
        arm: Arm = "candidate" if candidate else "champion"
        return _place(candidate or alias.champion, alias, served, routes, find, arm, asked_for=model)
    match = _VERSION.fullmatch(model)
    if model == served or model in routes:
        own = Held(model if match else f"{model}@0", None)
        return own if model == served else Forward(model, routes[model], own)
    if not match:
        return Unknown()
    name, number = match["name"], match["number"]
    alias = rollout.aliases.get(name)
    if number in ("champion", "candidate"):
        version = None if alias is None else alias.champion if number == "champion" else alias.staged
        return _place(version, alias, served, routes, find, "direct") if version else Unknown()
    return _place(f"{name}@{int(number)}", alias, served, routes, find, "direct")


def shadow(
    alias: str, served: str, rollout: Rollout, routes: Mapping[str, str], find: Find, session: str
) -> Held | Forward | None:
    """The candidate that is to answer beside the champion, and who has it."""
    meant = rollout.aliases.get(alias)
    candidate = _drawn(meant, session, shadow=True) if meant else None
    target = _place(candidate, meant, served, routes, find, "shadow", alias) if candidate else None
    return target if isinstance(target, Held | Forward) else None


def _drawn(alias: Alias, session: str, shadow: bool) -> str | None:
    """The candidate, if its canary is of this kind and has drawn the session."""
    canary = alias.canary
    return alias.staged if canary and canary.shadow == shadow and canary.draws(session) else None


def _place(
    version: str,
    alias: Alias | None,
    served: str,
    routes: Mapping[str, str],
    find: Find,
    arm: Arm,
    asked_for: str | None = None,
) -> Target:
    name, _, digits = version.rpartition("@")
    if digits == "0":
        if alias is None:
            return Unknown()
        needed, adapter = alias.base, None
    else:
        found = find(name, int(digits))
        if found is None:
            return Unknown()
        # A full-weight version is served by an application of its own, under the version's id.
        needed, adapter = (version, None) if found.form == "full" else (found.base, version)
    held = Held(version, adapter, asked_for, arm)
    if needed == served:
        return held
    return Forward(needed, routes[needed], held) if needed in routes else Away(needed)


@dataclass(frozen=True)
class Shelf:
    """The versions under `models/`. They never change once written, so each is read once."""

    root: Path
    _known: dict[tuple[str, int], Version] = field(default_factory=dict)

    def find(self, name: str, number: int) -> Version | None:
        """The version, or None. `name` must have passed `resolve`'s pattern: it becomes a path."""
        if (name, number) not in self._known:
            try:
                text = (self.folder(name, number) / "version.json").read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
            self._known[name, number] = Version.model_validate_json(text)
        return self._known[name, number]

    def is_full(self, version: str) -> bool:
        """Whether the version is known to be whole weights, which no engine of another model can load."""
        name, _, number = version.rpartition("@")
        found = self.find(name, int(number))
        return found is not None and found.form == "full"

    def folder(self, name: str, number: int) -> Path:
        return self.root / name / str(number)

    def all(self) -> list[Version]:
        """Every version there is, by name and number."""
        numbered = [path.parent for path in self.root.glob("*/*/version.json") if path.parent.name.isdigit()]
        found = [self.find(folder.parent.name, int(folder.name)) for folder in numbered]
        return sorted((version for version in found if version), key=lambda version: (version.name, version.number))
