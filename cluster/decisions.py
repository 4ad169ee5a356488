"""Reading the decision log: the one truth about aliases. Only `services/rollout.py` writes it.

Each decision is a file of its own, named by its sequence number and created exclusively (`link(2)` fails if the name
exists). Two writers can therefore never both write entry n: the loser is told, reads the log again and decides anew.
That fences without a lease, on any file system that several machines share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster.records import Decision


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


@dataclass(frozen=True)
class Rollout:
    """The state that the decision log folds to."""

    sequence: int = -1
    aliases: dict[str, Alias] = field(default_factory=dict)

    def wanted(self, base: str) -> list[str]:
        """Version ids that every replica of `base` must hold: champion, the one before it, and a staged one."""
        return [
            version
            for alias in self.aliases.values()
            if alias.base == base
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
        match decision.action:
            case "create":
                aliases[name] = Alias(name, decision.base, version)
            case "stage":
                aliases[name] = replace(aliases[name], staged=version)
            case "promote":
                alias = aliases[name]
                aliases[name] = replace(alias, champion=version, history=(*alias.history, alias.champion), staged=None)
            case "reject":
                aliases[name] = replace(aliases[name], staged=None)
            case "rollback":
                # A candidate stays staged: it is judged on its own merits, whoever is the champion meanwhile.
                alias = aliases[name]
                staged = None if alias.staged == version else alias.staged
                aliases[name] = replace(alias, champion=version, history=alias.history[:-1], staged=staged)
    return Rollout(sequence, aliases)


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
