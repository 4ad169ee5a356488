"""May the candidate take over? A pure function of the scored holdout: numbers in, verdict out.

The gain is the mean difference of the scores, row by row. Its lower confidence bound is a bootstrap over *sessions*, as
rows of one session are not independent (a cluster bootstrap; Davison and Hinkley, 1997, section 3.8). With few
sessions a plain percentile bound is too narrow: it is widened as in Hesterberg, 2015, "What Teachers Should Know About
the Bootstrap", section 5.3 ("expanded percentile").
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from cluster.records import Verdict
from pipelines.artifacts import Evaluation, Scored
from pipelines.recipe import GateSettings


def judge(evaluation: Evaluation, gate: GateSettings) -> Verdict:
    """The verdict with all its numbers; `reasons` says in sentences what decided, and every ground for a rejection."""
    rows = evaluation.rows
    if not rows:
        return _unmeasured(evaluation)
    candidate, champion = _mean([row.candidate for row in rows]), _mean([row.champion for row in rows])
    gain_low, _ = bounds(rows, gate)
    well_formed = _mean([float(row.well_formed) for row in rows])
    slices = {name: _slice(rows_of, gate) for name, rows_of in sorted(_by_slice(rows).items())}

    against: list[str] = []
    if len(rows) < gate.min_rows:
        against.append(f"only {len(rows)} rows were measured; the gate asks for {gate.min_rows}")
    if not gain_low > gate.margin:
        against.append(
            f"the gain of {candidate - champion:+.3f} is not proven: its lower {gate.confidence:.0%} bound is "
            f"{gain_low:+.3f} and must lie above {gate.margin:+.3f}"
        )
    if well_formed < gate.well_formed:
        against.append(f"{well_formed:.1%} of the answers are well-formed; the gate asks for {gate.well_formed:.1%}")
    against += [
        f"slice {name} fell from {numbers['champion']:.3f} to {numbers['candidate']:.3f} on {numbers['rows']:.0f} "
        f"rows; the gate allows {gate.slice_tolerance:.3f}"
        for name, numbers in slices.items()
        if _fell(numbers, gate)
    ]
    proven = (
        f"the score {'fell' if candidate < champion else 'rose'} from {champion:.3f} to {candidate:.3f} on {len(rows)} "
        f"rows; with {gate.confidence:.0%} confidence the gain is above {gain_low:+.3f}"
    )
    judged = sum(numbers["rows"] >= gate.slice_rows for numbers in slices.values())
    unharmed = (
        f"no slice of the {judged} with enough rows fell beyond {gate.slice_tolerance:.3f}"
        if judged
        else f"no slice has {gate.slice_rows} rows, which it takes to be judged by itself"
    )
    return Verdict(
        accepted=not against,
        reasons=against or [proven, unharmed],
        candidate=evaluation.candidate,
        champion=evaluation.champion,
        rows=len(rows),
        candidate_score=candidate,
        champion_score=champion,
        gain=candidate - champion,
        gain_low=gain_low,
        slices=slices,
        well_formed=well_formed,
    )


def bounds(rows: list[Scored], gate: GateSettings) -> tuple[float, float]:
    """Lower and upper one-sided confidence bounds of the mean gain (each at `gate.confidence`)."""
    sessions: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: row.row_id):
        sessions.setdefault(row.session, []).append(row.candidate - row.champion)
    sums_S = np.array([sum(gains) for gains in sessions.values()])
    counts_S = np.array([len(gains) for gains in sessions.values()])
    S = len(sessions)
    if S == 1:
        return -1.0, 1.0  # One session alone says nothing about others: the widest bounds that scores allow.
    draw = np.random.default_rng(gate.seed)
    means: list[np.ndarray] = []
    for start in range(0, gate.resamples, batch := max(1, 1_000_000 // S)):  # 8 MB of indices at a time
        picked = draw.integers(0, S, (min(batch, gate.resamples - start), S))
        means.append(sums_S[picked].sum(1) / counts_S[picked].sum(1))
    tail = _expanded(1 - gate.confidence, S)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _expanded(tail: float, n: int) -> float:
    """The tail to read off the bootstrap so that n clusters give a true `tail`: t quantiles and n - 1 for n.

    The t quantile is its expansion about the normal one, to the second order (error below 0.005 from n = 8 on).
    """
    z, degrees = NormalDist().inv_cdf(tail), n - 1
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return NormalDist().cdf(t * math.sqrt(n / (n - 1)))


def _slice(rows: list[Scored], gate: GateSettings) -> dict[str, float]:
    return {
        "rows": float(len(rows)),
        "candidate": _mean([row.candidate for row in rows]),
        "champion": _mean([row.champion for row in rows]),
        "gain_high": bounds(rows, gate)[1],
    }


def _fell(numbers: dict[str, float], gate: GateSettings) -> bool:
    """Worse beyond the tolerance, and not by chance: even the upper bound of the slice's gain lies below zero.

    The second half keeps a candidate that is better everywhere from failing on two unlucky rows of a slice of ten.
    """
    beyond = numbers["candidate"] < numbers["champion"] - gate.slice_tolerance
    return numbers["rows"] >= gate.slice_rows and beyond and numbers["gain_high"] < 0


def _by_slice(rows: list[Scored]) -> dict[str, list[Scored]]:
    slices: dict[str, list[Scored]] = {}
    for row in rows:
        slices.setdefault(row.slice, []).append(row)
    return slices


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _unmeasured(evaluation: Evaluation) -> Verdict:
    return Verdict(
        accepted=False,
        reasons=["the holdout is empty: there was nothing to measure on"],
        candidate=evaluation.candidate,
        champion=evaluation.champion,
        rows=0,
        candidate_score=0.0,
        champion_score=0.0,
        gain=0.0,
        gain_low=0.0,
        well_formed=0.0,
    )
