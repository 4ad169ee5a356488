"""What becomes of a candidate on live traffic: promote, go on, or roll back. Pure: observations in, decision out.

Live traffic is looked at after every record, so an ordinary test would sooner or later be significant by chance. This
one may be looked at for ever: it bets. Its capital starts at 1, is multiplied by 1 + bet x D with every pair of
sessions, candidate against champion, and if the candidate is in truth no better it reaches 1/alpha with probability
alpha at most, over the whole time (Ville's inequality). Betting on bounded means: Waudby-Smith and Ramdas, "Estimating
means of bounded random variables by betting", JRSS B 86(1), 2024; on two samples: Shekhar and Ramdas, "Nonparametric
two-sample testing by betting", IEEE Transactions on Information Theory 70(2), 2024. The size of the bet is not chosen
but mixed over `BETS`: an average of capitals is a capital.

Three things make the pairs honest. A *session* is one observation, because its requests are one user's. Sessions are
drawn by a salted hash, so both arms get the same kinds of users. And a pair's sessions come from the same stretch of
time, so a busy hour or an engine's restart meets both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from cluster.records import Evidence
from cluster.settings import Strict

BETS = np.linspace(0.05, 0.95, 19)
"""Below 1, so that no single pair can take the whole capital."""
MOST_CAPITAL = 1e12
"""Where e-values end in records: JSON knows no infinity."""


class CanarySettings(Strict):
    """`args` of the application `rollout` in services/serve.yaml: how an accepted candidate meets live traffic."""

    mode: Literal["canary", "shadow", "direct"] = "canary"
    """`canary`: it answers a share of the sessions, and what comes of it decides. `shadow`: it answers beside the
    champion, unseen; failures roll it back, `trivium promote` takes it further. `direct`: the gate's word is enough."""
    shares: tuple[float, ...] = (0.1, 0.3, 0.5)
    """Shares of the sessions, one after the other; half and half finds out fastest."""
    step_sessions: int = Field(default=5, ge=1)
    """Sessions that the candidate answers at one share before it gets the next, if nothing speaks against it."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Chance that anything wrong is ever proven of this alias's candidates: the n-th canary may use alpha / n(n + 1),
    which comes to alpha over all of them."""
    margin: float = Field(default=0.0, ge=0, lt=1)
    """A candidate is promoted when it is proven better than the champion's score less this. 0: it must be better."""
    slower: float = Field(default=1.5, ge=1)
    """A candidate is too slow where its sessions take so many times the champion's."""
    most_records: int = Field(default=5000, ge=1)
    """Answers of the candidate with feedback after which an undecided canary is rolled back ..."""
    most_hours: float = Field(default=24, gt=0)
    """... or hours."""
    session_s: float = Field(default=5, ge=0)
    """A session is one observation: what was said of it within so long of its first word."""
    look_every_s: float = Field(default=1, gt=0)
    host_s: float = Field(default=600, gt=0, le=3600)
    """Longest that an engine of its own may take to start, for a version with full weights; then the version is let
    go. An adapter needs none."""

    @field_validator("shares")
    @classmethod
    def _rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
            raise ValueError("must rise, each between 0 and 1: without champion's sessions there is nothing to compare")
        return shares


@dataclass(frozen=True)
class Observation:
    """One session: who answered it, and one number."""

    candidate: bool
    value: float


@dataclass(frozen=True)
class CanaryState:
    """What a decision rests on. Observations in the order in which they came to be known."""

    share: float
    canaries: int
    """Canaries of this alias so far, this one included."""
    age_s: float
    records: int
    """The candidate's answers with feedback, and agents' runs with rewards."""
    scores: Sequence[Observation]
    """Mean score of each session, 0 to 1."""
    errors: Sequence[Observation]
    """Share of each session's requests that failed."""
    latencies: Sequence[Observation]
    """Mean latency of each session, seconds."""
    shadow: bool = False


@dataclass(frozen=True)
class Promote:
    reason: str
    evidence: Evidence


@dataclass(frozen=True)
class Widen:
    share: float
    reason: str
    evidence: Evidence


@dataclass(frozen=True)
class Hold:
    reason: str
    evidence: Evidence


@dataclass(frozen=True)
class RollBack:
    reason: str
    evidence: Evidence


def decide(state: CanaryState, settings: CanarySettings) -> Promote | Widen | Hold | RollBack:
    """What follows from what was seen. The first proof counts, however late somebody looks."""
    alpha = settings.alpha / (state.canaries * (state.canaries + 1))
    score = pairs(state.scores, _difference)
    better, worse = capital((score + settings.margin) / (1 + settings.margin)), capital(-score)
    errors, slower = capital(pairs(state.errors, _difference)), capital(pairs(state.latencies, _slower(settings)))
    evidence = Evidence(
        records=state.records,
        candidate_sessions=sum(seen.candidate for seen in state.errors),
        champion_sessions=sum(not seen.candidate for seen in state.errors),
        candidate_score=_mean(state.scores, True),
        champion_score=_mean(state.scores, False),
        alpha=alpha,
        better=_told(better),
        worse=_told(worse),
        more_errors=_told(errors),
        slower=_told(slower),
    )
    proven, harm = _first(better, 1 / alpha), 3 / alpha  # three ways to be worse share what there is to err
    if _first(errors, harm) is not None:
        return RollBack(f"it fails more often: {_rates(state.errors)}", evidence)
    if not state.shadow and _first(slower, harm) is not None:
        return RollBack(f"it is slower by more than {settings.slower:g} times: {_times(state.latencies)}", evidence)
    disproven = _first(worse, harm)
    if disproven is not None and (proven is None or disproven <= proven):
        return RollBack(f"users like it less: {_scores(evidence)}", evidence)
    if proven is not None and not state.shadow:
        return Promote(f"users like it better: {_scores(evidence)}", evidence)
    if state.records >= settings.most_records:
        return RollBack(f"undecided after {state.records} records: {_scores(evidence)}", evidence)
    if state.age_s >= 3600 * settings.most_hours:
        return RollBack(f"undecided after {state.age_s / 3600:.1f} hours: {_scores(evidence)}", evidence)
    wider = next((share for share in settings.shares if share > state.share), None)
    steps = settings.shares.index(state.share) + 1 if state.share in settings.shares else 1
    # One failure is no sign yet: it doubles nobody's capital.
    unharmed = _now(worse) <= max(_now(better), 0.0) and _now(errors) < np.log(2)
    if wider and unharmed and evidence.candidate_sessions >= steps * settings.step_sessions:
        return Widen(wider, f"nothing speaks against it: {_scores(evidence)}", evidence)
    return Hold(_scores(evidence), evidence)


Compare = Callable[[list[float], list[float]], float]
"""(candidate's values, champion's) of one pair -> D, from -1 to 1, with mean 0 where the arms are alike."""


def pairs(observations: Sequence[Observation], compare: Compare) -> NDArray[np.float64]:
    """Each D. A pair is complete as soon as both arms have a session in it; the larger side counts as its mean.

    Which sessions make a pair depends on who was drawn, never on what they said, so D keeps its mean.
    """
    found: list[float] = []
    candidate: list[float] = []
    champion: list[float] = []
    for seen in observations:
        (candidate if seen.candidate else champion).append(seen.value)
        if candidate and champion:
            found.append(compare(candidate, champion))
            candidate, champion = [], []
    return np.array(found, dtype=np.float64)


def capital(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the capital after each pair, for one who bets that D is above 0 on average."""
    if not len(differences):
        return np.zeros(0)
    by_bet = np.cumsum(np.log1p(np.outer(differences, BETS)), axis=0)
    most = by_bet.max(axis=1, keepdims=True)
    mixed: NDArray[np.float64] = most[:, 0] + np.log(np.exp(by_bet - most).mean(axis=1))
    return mixed


def _first(log_capital: NDArray[np.float64], wanted: float) -> int | None:
    """The first pair at which the capital has reached `wanted`."""
    reached = np.flatnonzero(log_capital >= np.log(wanted))
    return int(reached[0]) if len(reached) else None


def _difference(candidate: list[float], champion: list[float]) -> float:
    return sum(candidate) / len(candidate) - sum(champion) / len(champion)


def _slower(settings: CanarySettings) -> Compare:
    """How often the candidate is slower by the factor than the other way round, over all pairs of sessions.

    Times have long tails: a comparison of means would be decided by a few, and the mean of nine is not distributed as
    one is. Counting who is slower is fair to both sides whatever the distribution.
    """

    def compare(candidate: list[float], champion: list[float]) -> float:
        slower = sum(a > settings.slower * b for a in candidate for b in champion)
        faster = sum(b > settings.slower * a for a in candidate for b in champion)
        return (slower - faster) / (len(candidate) * len(champion))

    return compare


def _now(log_capital: NDArray[np.float64]) -> float:
    return float(log_capital[-1]) if len(log_capital) else 0.0


def _told(log_capital: NDArray[np.float64]) -> float:
    """The highest capital so far, as it goes into a record."""
    highest = float(log_capital.max()) if len(log_capital) else 0.0
    return min(MOST_CAPITAL, round(float(np.exp(min(highest, 40.0))), 4))


def _mean(observations: Sequence[Observation], candidate: bool) -> float | None:
    values = [seen.value for seen in observations if seen.candidate == candidate]
    return sum(values) / len(values) if values else None


def _scores(evidence: Evidence) -> str:
    candidate, champion = evidence.candidate_score, evidence.champion_score
    if candidate is None or champion is None:
        return "no feedback on both sides yet"
    return (
        f"score {candidate:.3f} against {champion:.3f} in {evidence.candidate_sessions} and "
        f"{evidence.champion_sessions} sessions (e-value {max(evidence.better, evidence.worse):.3g})"
    )


def _rates(observations: Sequence[Observation]) -> str:
    candidate, champion = _mean(observations, True) or 0.0, _mean(observations, False) or 0.0
    return f"{candidate:.1%} of its requests against {champion:.1%}"


def _times(observations: Sequence[Observation]) -> str:
    sides = ([seen.value for seen in observations if seen.candidate == side] for side in (True, False))
    candidate, champion = (float(np.median(values)) for values in sides)
    return f"a median of {candidate:.2f} s against {champion:.2f} s"
