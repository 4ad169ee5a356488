"""`make bench NAME=canary`: how often canaries decide wrongly where nothing differs, and how soon where something does.

Simulated sessions go through the real `decide`, which counts the first proof however often it looks: what it says of a
whole history is what it would have said to one who looked after every record.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from services.canary import CanarySettings, CanaryState, Observation, Promote, RollBack, Widen, decide

RUNS = 1000
LEAST_REQUESTS, MOST_REQUESTS = 1, 6
"""Of one session."""


@dataclass(frozen=True)
class World:
    """Users, and two versions that serve them."""

    champion: float
    """Share of good answers, on average."""
    candidate: float
    spread: float = 0.15
    """Users differ: the standard deviation of that share between sessions."""
    sessions: int = 2000


def play(world: World, settings: CanarySettings, seed: int) -> tuple[Promote | RollBack | None, int, int]:
    """One canary: how it was decided (None: not within the world's sessions), the candidate's sessions, and all."""
    chance = np.random.default_rng(seed)
    ask = chance.integers(LEAST_REQUESTS, MOST_REQUESTS + 1, world.sessions)
    drawn, mood = chance.random(world.sessions), chance.normal(0, world.spread, world.sessions)
    likes = [np.clip(share + mood, 0, 1) for share in (world.champion, world.candidate)]
    scores = [chance.binomial(ask, share) / ask for share in likes]
    slow = chance.lognormal(0, 0.5, world.sessions)
    state = CanaryState(settings.shares[0], 1, 0.0, 0, [], [], [])
    arms: list[bool] = []
    while len(arms) < world.sessions:
        # `decide` counts the first proof: one who looks ever less often decides the same, and the simulation is quick.
        known = range(len(arms), min(world.sessions, max(len(arms) + 20, round(1.3 * len(arms)))))
        arms += [bool(drawn[n] < state.share) for n in known]  # a session keeps its arm when the share grows
        state = replace(
            state,
            scores=[Observation(arm, float(scores[arm][n])) for n, arm in enumerate(arms)],
            errors=[Observation(arm, 0.0) for arm in arms],
            latencies=[Observation(arm, float(slow[n])) for n, arm in enumerate(arms)],
        )
        match decide(state, settings):
            case Promote() | RollBack() as decision:
                return decision, decision.evidence.candidate_sessions, len(arms)
            case Widen(share):
                state = replace(state, share=share)
    return None, sum(arms), len(arms)


def many(world: World, runs: int = RUNS, settings: CanarySettings | None = None) -> dict[str, float]:
    """Shares of the runs that ended in each way, and the median of the sessions that it took."""
    ended: Counter[str] = Counter()
    took: list[tuple[int, int]] = []
    for seed in range(runs):
        decision, candidate, everybody = play(world, settings or CanarySettings(), seed)
        ended[type(decision).__name__] += 1
        took.append((candidate, everybody))
    candidate, everybody = (statistics.median(values) for values in zip(*took, strict=True))
    shares = {name: ended[name] / runs for name in ("Promote", "RollBack", "NoneType")}
    return {**shares, "candidate_sessions": candidate, "sessions": everybody}


def main() -> None:
    worlds = {
        "no difference": World(0.8, 0.8),
        "a drop of 0.1": World(0.8, 0.7, sessions=6000),
        "a drop of 0.3": World(0.8, 0.5),
        "a rise of 0.1": World(0.7, 0.8, sessions=6000),
        "a rise of 0.6": World(0.2, 0.8),
    }
    print(f"{'':<16}{'promoted':>10}{'rolled back':>13}{'undecided':>11}{'sessions':>10}{'candidate':>11}")
    found = {}
    for name, world in worlds.items():
        found[name] = end = many(world, RUNS if "no" in name else RUNS // 10)
        print(
            f"{name:<16}{end['Promote']:>10.1%}{end['RollBack']:>13.1%}{end['NoneType']:>11.1%}"
            f"{end['sessions']:>10.0f}{end['candidate_sessions']:>11.0f}",
            flush=True,
        )
    print(json.dumps({"runs": RUNS, "alpha": CanarySettings().alpha, **found}))


if __name__ == "__main__":
    main()
