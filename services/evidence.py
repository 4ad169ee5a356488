"""What a canary's traffic has shown so far: the log's entries since it began, as one observation for each session.

Everything comes from the log, so a controller that dies is replaced by one that sees the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cluster.decisions import Alias
from cluster.log import Log
from cluster.log.tail import Tail
from cluster.records import Entry, Feedback, Record, Step
from services.canary import CanaryState, Observation


@dataclass(frozen=True)
class _Side:
    """Who answered a session."""

    session: str
    candidate: bool


@dataclass(frozen=True)
class _Answer:
    """What a canary needs to know of one record."""

    side: _Side
    time: float
    """When it was complete."""
    failed: bool
    latency_s: float | None
    """None where the client did not wait for the end, or there was an error."""


@dataclass
class Comparison:
    """Entries of one canary, sorted by what they say; plain state, without a log behind it."""

    alias: str
    candidate: str
    champion: str
    since: float
    shadow: bool = False
    _answers: dict[str, _Answer] = field(default_factory=dict)
    _scores: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """By request and source: when it was said, and the score. Also of requests that are not known (yet)."""
    _rewards: dict[tuple[str, str], dict[str, tuple[float, float]]] = field(default_factory=dict)
    """By session and run: the same of what an agent's run was worth."""
    _arms: dict[str, bool] = field(default_factory=dict)
    """Who answered a session first: where the share grows in the middle of it, the rest of it does not count."""

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if isinstance(entry, Feedback):
                _hear(self._scores.setdefault(entry.request_id, {}), entry.source, entry.time, entry.score)
                continue
            if isinstance(entry, Step):
                if entry.score is not None:
                    said = self._rewards.setdefault((entry.session, entry.run), {})
                    _hear(said, str(entry.body.get("source")), entry.time, entry.score)
                continue
            candidate = self._side(entry)
            if candidate is None:
                continue
            # A shadow is beside the user's answer: its session has both.
            if entry.arm == "shadow" or self._arms.setdefault(entry.session, candidate) == candidate:
                self._answers[entry.request_id] = _answer(entry, candidate)

    def state(self, alias: Alias, session_s: float, now: float) -> CanaryState:
        """What is known at `now`; a session counts once it is `session_s` old."""
        assert alias.canary is not None
        answers, said = self._answers.values(), list(self._said())
        return CanaryState(
            share=alias.canary.share,
            canaries=alias.canaries,
            age_s=now - self.since,
            records=sum(side.candidate for side, _, _ in said),
            scores=_sessions(said, session_s, now),
            errors=_sessions(((a.side, a.time, float(a.failed)) for a in answers), session_s, now),
            latencies=_sessions(
                ((a.side, a.time, a.latency_s) for a in answers if a.latency_s is not None), session_s, now
            ),
            shadow=self.shadow,
        )

    def _side(self, record: Record) -> bool | None:
        """Whether a record is the candidate's (True) or the champion's (False); None for one that does not count."""
        if record.alias != self.alias or record.time < self.since or 400 <= record.status < 500:
            return None  # what a caller did wrong is nobody's failure
        match record.arm, record.version:
            case "shadow" | "candidate", self.candidate:
                return True
            case "champion", self.champion:
                return False
        return None

    def _said(self) -> Iterator[tuple[_Side, float, float]]:
        """Each answer with feedback, and each run with a reward: when it first had some, and the mean of its sources'
        last words."""
        for request in self._answers.keys() & self._scores.keys():
            yield self._answers[request].side, *_mean(self._scores[request])
        for (session, _), rewards in self._rewards.items():
            # What a user saw is nothing that a shadow said.
            if session in self._arms and not self.shadow:
                yield _Side(session, self._arms[session]), *_mean(rewards)


class Witness:
    """A comparison that follows the log."""

    def __init__(self, log: Log, alias: Alias) -> None:
        assert alias.canary is not None and alias.staged is not None
        self._of = _identity(alias)
        self._seen = Comparison(alias.name, alias.staged, alias.champion, alias.canary.since, alias.canary.shadow)
        self._tail = Tail(log, since=alias.canary.since)

    def follows(self, alias: Alias) -> bool:
        """Whether it is this comparison that it has followed."""
        return self._of == _identity(alias)

    def look(self, alias: Alias, session_s: float, now: float) -> CanaryState:
        """Read what is new, and say what is known."""
        self._seen.add(self._tail.new())
        return self._seen.state(alias, session_s, now)


def _identity(alias: Alias) -> tuple[object, ...]:
    return alias.staged, alias.champion, alias.canary and (alias.canary.since, alias.canary.shadow)


def _answer(record: Record, candidate: bool) -> _Answer:
    failed = record.status >= 500
    whole = not failed and not record.disconnected
    time = record.time + record.latency_s
    return _Answer(_Side(record.session, candidate), time, failed, record.latency_s if whole else None)


def _hear(said: dict[str, tuple[float, float]], source: str, time: float, score: float) -> None:
    """A later word of the same source replaces the first."""
    if time >= said.get(source, (0.0, 0.0))[0]:
        said[source] = time, score


def _mean(by_source: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """When something was first said, and the mean of what was."""
    said = by_source.values()
    return min(time for time, _ in said), sum(score for _, score in said) / len(said)


def _sessions(seen: Iterable[tuple[_Side, float, float]], session_s: float, now: float) -> list[Observation]:
    """One observation for each session that is `session_s` old: the mean of what was seen of it until then."""
    sessions: dict[_Side, list[tuple[float, float]]] = {}
    for side, time, value in seen:
        sessions.setdefault(side, []).append((time, value))
    known = []
    for side, said in sessions.items():
        closes = min(time for time, _ in said) + session_s
        if closes <= now:
            values = [value for time, value in said if time <= closes]
            known.append((closes, side.session, side.candidate, math.fsum(values) / len(values)))
    return [Observation(candidate, value) for _, _, candidate, value in sorted(known)]
