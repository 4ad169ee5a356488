"""What becomes of a candidate on live traffic: a table, and a simulation of what the promises are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.canary import World, many, play
from services.canary import (
    CanarySettings,
    CanaryState,
    Hold,
    Observation,
    Promote,
    RollBack,
    Widen,
    capital,
    decide,
)

SETTINGS = CanarySettings()


def sessions(count: int, candidate: float, champion: float) -> list[Observation]:
    """Alternately one of each arm, all alike."""
    return [Observation(n % 2 == 0, candidate if n % 2 == 0 else champion) for n in range(2 * count)]


def state(count: int = 0, candidate: float = 1.0, champion: float = 1.0, **changes: Any) -> CanaryState:
    fine = sessions(count, 0.0, 0.0)
    seen = CanaryState(0.1, 1, 60.0, count, sessions(count, candidate, champion), fine, sessions(count, 1.0, 1.0))
    return replace(seen, **changes)


@pytest.mark.parametrize(
    ("seen", "outcome", "reason"),
    [
        (state(0), Hold, "no feedback on both sides yet"),
        (state(4, 1.0, 1.0), Hold, "score 1.000 against 1.000 in 4 and 4 sessions"),
        (state(30, 0.9, 0.1), Promote, "users like it better: score 0.900 against 0.100"),
        (state(30, 0.1, 0.9), RollBack, "users like it less: score 0.100 against 0.900"),
        (state(5, 1.0, 1.0), Widen, "nothing speaks against it"),
        (state(5, 0.8, 0.9), Hold, "score 0.800 against 0.900"),  # something does, if not much
        (state(60, errors=sessions(60, 0.3, 0.0)), RollBack, "it fails more often: 30.0% of its requests against 0.0%"),
        (state(30, errors=sessions(30, 1.0, 1.0)), Widen, "nothing"),  # the engine's fault, not the candidate's
        (state(30, latencies=sessions(30, 3.1, 2.0)), RollBack, "slower by more than 1.5 times: a median of 3.10 s"),
        (state(30, latencies=sessions(30, 2.9, 2.0)), Widen, "nothing"),
        (state(30, 0.9, 0.1, errors=sessions(30, 1.0, 0.0)), RollBack, "it fails more often"),  # harm comes first
        (state(9, records=5000), RollBack, "undecided after 5000 records: score 1.000 against 1.000"),
        (state(9, age_s=24 * 3600), RollBack, "undecided after 24.0 hours"),
        (state(30, 0.9, 0.1, shadow=True), Widen, "nothing"),  # nobody saw it, so nobody can have liked it
        (state(30, shadow=True, latencies=sessions(30, 9.0, 1.0)), Widen, "nothing"),  # it waits behind everybody
        (state(30, shadow=True, errors=sessions(30, 1.0, 0.0)), RollBack, "it fails more often"),
    ],
)
def test_what_was_seen_decides(seen: CanaryState, outcome: type, reason: str) -> None:
    decision = decide(seen, SETTINGS)
    assert type(decision) is outcome, decision
    assert reason in decision.reason


def test_the_share_grows_step_by_step_to_the_last() -> None:
    shares, seen = [0.1], state(5)
    for count in (9, 10, 14, 15, 400):
        decision = decide(seen, SETTINGS)
        if isinstance(decision, Widen):
            shares.append(decision.share)
        seen = state(count, share=shares[-1])
    assert shares == [0.1, 0.3, 0.5]


def test_the_first_proof_counts_however_late_somebody_looks() -> None:
    chance = np.random.default_rng(3)
    scores = [Observation(bool(n % 2), float(chance.random() < (0.75 if n % 2 else 0.4))) for n in range(400)]
    looks = [decide(state(0, scores=scores[:n]), SETTINGS) for n in range(401)]
    first = next(n for n, look in enumerate(looks) if isinstance(look, Promote))
    assert 20 < first < 300
    assert all(isinstance(look, Promote) for look in looks[first:])
    # A collapse after the proof is the next champion's history, not this canary's.
    late = decide(state(0, scores=[*scores[:first], *sessions(300, 0.0, 1.0)]), SETTINGS)
    assert isinstance(late, Promote)


def test_each_canary_of_an_alias_may_err_less_and_all_together_no_more_than_alpha() -> None:
    alphas = [decide(state(4, canaries=n), SETTINGS).evidence.alpha for n in range(1, 200)]
    assert alphas == sorted(alphas, reverse=True) and alphas[0] == SETTINGS.alpha / 2
    assert 0.99 * SETTINGS.alpha < sum(alphas) < SETTINGS.alpha
    few = next(n for n in range(100) if isinstance(decide(state(n, 1.0, 0.0), SETTINGS), Promote))
    more = next(n for n in range(100) if isinstance(decide(state(n, 1.0, 0.0, canaries=20), SETTINGS), Promote))
    assert few < more < 3 * few


def test_with_a_margin_it_is_enough_to_be_about_as_good() -> None:
    alike = state(200, 0.8, 0.8, share=0.5)
    assert isinstance(decide(alike, SETTINGS), Hold)
    assert isinstance(decide(alike, CanarySettings(margin=0.1)), Promote)
    assert isinstance(decide(state(200, 0.7, 0.85), CanarySettings(margin=0.1)), RollBack)


def test_nothing_that_is_bet_can_be_lost_altogether() -> None:
    assert np.isfinite(capital(np.full(5000, -1.0))).all()
    evidence = decide(state(5000, 1.0, 0.0, records=1), SETTINGS).evidence
    assert evidence.better == 1e12 and 0 <= evidence.worse <= 1


@pytest.mark.parametrize("shares", [[], [0.3, 0.1], [0.1, 0.1], [0.0, 0.5], [0.5, 1.0]])
def test_shares_that_leave_nothing_to_compare_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="must rise, each between 0 and 1"):
        CanarySettings(shares=shares)  # type: ignore[arg-type]


# Simulated; with `ray`, because it takes as long as the fast tests may


@pytest.mark.ray
def test_where_nothing_is_different_nearly_nothing_is_ever_decided() -> None:
    """1,000 canaries of two equal versions, looked at after every session, users differing in mood."""
    found = many(World(0.8, 0.8, sessions=400), runs=1000)
    assert found["Promote"] <= SETTINGS.alpha and found["RollBack"] <= SETTINGS.alpha
    assert found["NoneType"] >= 1 - SETTINGS.alpha


@pytest.mark.ray
def test_a_drop_is_found_within_a_thousand_sessions_and_a_large_one_within_a_hundred_or_two() -> None:
    small, large = many(World(0.8, 0.7, sessions=6000), runs=60), many(World(0.8, 0.4, sessions=6000), runs=60)
    assert small["RollBack"] > 0.95 and small["Promote"] == 0
    assert large["RollBack"] == 1
    assert large["sessions"] < 300 < small["sessions"] < 2000


def test_a_version_that_is_far_better_is_promoted_while_few_have_met_it() -> None:
    for seed in range(10):
        decision, candidate, everybody = play(World(0.1, 0.9), SETTINGS, seed)
        assert isinstance(decision, Promote) and candidate < 60 and everybody < 250
