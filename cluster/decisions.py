"""Reading the decision log: the one truth about aliases. Only `services/rollout.py` writes it.

Each decision is a file of its own, named by its sequence number and created exclusively (`link(2)` fails if the name
exists). Two writers can therefore never both write entry n: the loser is told, reads the log again and decides anew.
That fences without a lease, on any file system that several machines share.

The log is a hash chain: each entry holds its own digest and that of the entry before it, so whoever changes, removes or
inserts one has to write all later ones anew, and then the last digest is another than the one that was noted down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.records import Decision


@dataclass(frozen=True)
class Canary:
    """A staged version that answers a part of the live traffic, until that has shown what it is worth."""

    share: float
    """Of the alias's sessions."""
    since: float
    """When the comparison with the present champion began, Unix seconds."""
    salt: str
    """Another draw of sessions for each canary: not always the same users meet the new version."""
    shadow: bool = False
    """Its answers are recorded, and nobody gets them."""

    def draws(self, session: str) -> bool:
        """Whether this session is among them; the same on every replica, and still so when the share grows."""
        digest = hashlib.sha256(f"{self.salt}:{session}".encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64


@dataclass(frozen=True)
class Alias:
    """What an alias means now."""

    name: str
    base: str
    champion: str
    """Version id that answers."""
    history: tuple[str, ...] = ()
    """Former champions, oldest first; a rollback returns to the last."""
    staged: str | None = None
    """A version that every replica must hold although it is not the champion (it is being evaluated)."""
    canary: Canary | None = None
    """Of the staged version."""
    canaries: int = 0
    """Comparisons on live traffic that have begun, this one included: they share one budget of error."""


@dataclass(frozen=True)
class Rollout:
    """The state that the decision log folds to."""

    sequence: int = -1
    aliases: dict[str, Alias] = field(default_factory=dict)

    def wanted(self, base: str | None = None) -> list[str]:
        """Version ids that must be held: champion, the one before it, and a staged one; of all aliases, or of those
        that serve `base`."""
        return [
            version
            for alias in self.aliases.values()
            if base in (None, alias.base)
            for version in dict.fromkeys([alias.champion, *alias.history[-1:], alias.staged])
            if version is not None
        ]


def fold(decisions: Iterable[Decision], start: Rollout | None = None) -> Rollout:
    """What the decisions, in order, come to after `start` (nothing). Pure: one log gives one state everywhere.

    Give `start` and `read(state, after=start.sequence)` to go on from a state without reading the whole log again.
    """
    start = start or Rollout()
    sequence, aliases = start.sequence, dict(start.aliases)
    for decision in decisions:
        assert decision.sequence == sequence + 1, f"decision {decision.sequence} cannot follow {sequence}"
        sequence = decision.sequence
        name, version = decision.alias, decision.version
        if decision.action == "create":
            aliases[name] = Alias(name, decision.base, version)
            continue
        alias = aliases[name]
        match decision.action:
            case "stage":
                aliases[name] = replace(alias, staged=version, canary=None)
            case "canary":
                aliases[name] = _canary(alias, decision)
            case "promote":
                history = (*alias.history, alias.champion)
                aliases[name] = replace(alias, champion=version, history=history, staged=None, canary=None)
            case "reject":
                aliases[name] = replace(alias, staged=None, canary=None)
            case "rollback":
                # A candidate stays staged: it is judged on its own merits, whoever is the champion meanwhile.
                back = replace(alias, champion=version, history=alias.history[:-1])
                if alias.staged == version:
                    back = replace(back, staged=None, canary=None)
                elif alias.canary:
                    # What it was compared with answers no longer: its comparison begins anew.
                    again = replace(alias.canary, since=decision.time)
                    back = replace(back, canary=again, canaries=alias.canaries + 1)
                aliases[name] = back
    return Rollout(sequence, aliases)


def _canary(alias: Alias, decision: Decision) -> Alias:
    """A canary begins, or goes on with another share, and the comparison with it."""
    share, shadow = decision.share or 0.0, decision.shadow
    if alias.canary and alias.staged == decision.version and alias.canary.shadow == shadow:
        return replace(alias, canary=replace(alias.canary, share=share))
    begun = Canary(share, since=decision.time, salt=f"{alias.name}:{decision.sequence}", shadow=shadow)
    return replace(alias, staged=decision.version, canary=begun, canaries=alias.canaries + 1)


def read(state: Path, after: int = -1) -> list[Decision]:
    """Decisions with a sequence number above `after`, in order, up to the first gap: there are none behind it."""
    decisions = []
    for sequence in range(after + 1, 10**8):
        try:
            decisions.append(Decision.model_validate_json(path(state, sequence).read_bytes()))
        except FileNotFoundError:
            return decisions
    raise AssertionError("unreachable")


def path(state: Path, sequence: int) -> Path:
    return state / "rollout" / f"{sequence:08}.json"


# The chain


def seal(decision: Decision, before: Decision | None) -> Decision:
    """The decision as the next link after `before`."""
    linked = decision.model_copy(update={"previous": before.digest if before else "", "digest": ""})
    return linked.model_copy(update={"digest": _digest(linked.model_dump(mode="json"))})


@dataclass(frozen=True)
class Audit:
    """What `audit` found."""

    entries: int
    """How many entries are sound, from the first on."""
    head: str
    """Digest of the last of them: noted down elsewhere, it proves later that nothing before it was changed."""
    fault: str | None
    """The first entry that is not as it was written, and why; None if there is none."""


def audit(state: Path, head: str | None = None) -> Audit:
    """Check every entry against its digest and the one before it. Reads files only.

    `head` is a digest that an earlier audit gave: a log that was cut off behind it, or written anew as a whole, fails.
    """
    numbers = [int(file.stem) for file in (state / "rollout").glob("[0-9]*.json") if file.stem.isdecimal()]
    last, seen = "", set[str]()
    for sequence in range(max(numbers, default=-1) + 1):
        try:
            last = _checked(path(state, sequence), sequence, last)
        except ValueError as fault:
            return Audit(sequence, last, f"entry {sequence} {fault}")
        seen.add(last)
    if head is not None and head not in seen:
        return Audit(len(seen), last, f"no entry has the digest {head}: the log was cut off before it, or written anew")
    return Audit(len(seen), last, None)


def _checked(file: Path, sequence: int, previous: str) -> str:
    """An entry's digest. Raises `ValueError` that says what is wrong with it."""
    try:
        entry = json.loads(file.read_bytes())
        digest, named, follows = entry["digest"], entry["sequence"], entry["previous"]
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError("is not a sealed decision") from None
    if digest != _digest({**entry, "digest": ""}):
        raise ValueError("was changed: its digest does not fit what it says")
    if named != sequence:
        raise ValueError(f"is entry {named} under another number")
    if follows != previous:
        raise ValueError("does not follow the entry before it")
    return digest


def _digest(entry: dict[str, Any]) -> str:
    """Of what the file says, not of how it is laid out: also of fields that only a newer release knows."""
    text = json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
