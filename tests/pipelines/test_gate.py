"""The gate is pure, so a table tells its rules and a simulation tells its statistics."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.records import Verdict
from pipelines.artifacts import Evaluation, Scored
from pipelines.gate import bounds, judge
from pipelines.recipe import RECIPES, GateSettings, Recipe

GATE = GateSettings()


def evaluation(tmp_path, rows):
    return Evaluation(tmp_path, rows, "assistant@2", "assistant@1")


def rows(champion, candidate, slice="Book", well_formed=True, sessions=None):
    return [
        Scored(f"{slice}-{n}", slice, sessions[n] if sessions else f"{slice}-{n}", float(new), float(old), well_formed)
        for n, (old, new) in enumerate(zip(champion, candidate, strict=True))
    ]


@pytest.mark.parametrize(
    ("scored", "accepted", "reason"),
    [
        (rows([0] * 40, [1] * 40), True, "rose from 0.000 to 1.000 on 40 rows"),
        (rows([1] * 40, [1] * 40), False, "gain of +0.000 is not proven"),
        (rows([1] * 40, [0] * 40), False, "gain of -1.000 is not proven"),
        (rows([0] * 40, [1] + [0] * 39), False, "gain of +0.025 is not proven"),
        (rows([0] * 10, [1] * 10), False, "only 10 rows were measured"),
        (rows([0] * 40, [1] * 40, well_formed=False), False, "0.0% of the answers are well-formed"),
        (rows([0] * 80, [1] * 80) + rows([1] * 20, [0.5] * 20, "Rate"), False, "slice Rate fell from 1.000 to 0.500"),
        (rows([0] * 80, [1] * 80) + rows([1] * 20, [0.95] * 20, "Rate"), True, "no slice of the 2"),
        (rows([0] * 80, [1] * 80) + rows([1] * 5, [0] * 5, "Rate"), True, "no slice of the 1 with enough rows"),
        ([row for name in "ABC" for row in rows([0] * 9, [1] * 9, name)], True, "no slice has 10 rows"),
        (rows([0] * 80, [1] * 80) + rows([1] * 10, [0] * 2 + [1] * 8, "Rate"), True, "no slice"),
        (rows([0] * 40, [1] * 40, sessions=["one"] * 40), False, "lower 95% bound is -1.000"),
        ([], False, "holdout is empty"),
    ],
)
def test_verdict_follows_the_rules(tmp_path, scored, accepted, reason):
    verdict = judge(evaluation(tmp_path, scored), GATE)
    assert verdict.accepted is accepted
    assert reason in "; ".join(verdict.reasons)


def test_every_ground_for_rejection_is_named(tmp_path):
    verdict = judge(evaluation(tmp_path, rows([1] * 12, [0] * 12, well_formed=False)), GATE)
    assert len(verdict.reasons) == 4


def test_margin_is_asked_for_on_top(tmp_path):
    scored = rows([0.5] * 50, [0.6] * 50)
    assert judge(evaluation(tmp_path, scored), GATE).accepted
    assert not judge(evaluation(tmp_path, scored), GateSettings(margin=0.2)).accepted


def test_with_a_margin_below_zero_a_candidate_may_be_worse_by_so_much(tmp_path):
    gate = GATE.model_copy(update={"margin": -0.25, "slice_tolerance": 0.25})
    verdict = judge(evaluation(tmp_path, rows([1] * 40, [0] * 3 + [1] * 37)), gate)
    assert verdict.accepted and "fell from 1.000 to 0.925 on 40 rows" in verdict.reasons[0]
    assert not judge(evaluation(tmp_path, rows([1] * 40, [0] * 15 + [1] * 25)), gate).accepted


@pytest.mark.parametrize(("kept", "accepted"), [(6, True), (3, False), (0, False)])
def test_an_agents_candidate_may_say_some_things_otherwise_but_not_most(tmp_path, kept, accepted):
    """Nine runs of three turns, the champion's own: the first is said like it in all runs, the others in `kept`."""
    gate = Recipe.load(RECIPES / "agents.yaml").gate
    said = [float(turn == 0 or run < kept) for run in range(9) for turn in range(3)]
    own = rows([1] * 27, said, "agent:clerk", sessions=[f"run-{n // 3}" for n in range(27)])
    assert judge(evaluation(tmp_path, own), gate).accepted is accepted


def test_verdict_is_the_same_each_time_and_survives_json(tmp_path):
    draw = np.random.default_rng(1)
    scored = rows(draw.random(60), draw.random(60))
    verdict = judge(evaluation(tmp_path, scored), GATE)
    assert verdict == judge(evaluation(tmp_path, list(reversed(scored))), GATE)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_rows_of_one_session_count_as_one_observation():
    draw = np.random.default_rng(2)
    means = np.repeat(draw.random(12), 10)
    alone, together = rows([0] * 120, means), rows([0] * 120, means, sessions=[f"s{n // 10}" for n in range(120)])
    assert bounds(together, GATE)[0] < bounds(alone, GATE)[0]


@pytest.mark.parametrize("n", [20, 60, 200])
def test_equal_versions_are_accepted_at_most_one_time_in_twenty(n):
    """Both answer right with 0.6, independently: what a margin of zero lets through is the test's true size."""
    gate, draw, trials = GateSettings(resamples=400), np.random.default_rng(n), 500
    accepted = sum(bounds(rows(draw.random(n) < 0.6, draw.random(n) < 0.6), gate)[0] > 0 for _ in range(trials))
    # 0.05 and two standard errors of the estimate itself.
    assert accepted / trials <= 0.05 + 2 * (0.05 * 0.95 / trials) ** 0.5


def test_a_real_gain_of_a_tenth_is_found_on_two_hundred_rows():
    draw, found = np.random.default_rng(3), 0
    for _ in range(100):
        champion = draw.random(200) < 0.6
        # A tenth of all rows turn right, and a few are lost again.
        candidate = np.where(champion, draw.random(200) > 0.03, draw.random(200) < 0.3)
        found += bounds(rows(champion, candidate), GateSettings(resamples=400))[0] > 0
    assert found >= 90
