"""The verdict is carried out: an accepted candidate goes on to live traffic, a rejected one is let go.

Only `services/rollout.py` moves aliases; this asks it over HTTP. Run again after a kill it finds its decision in the
log and asks for nothing twice: not for a second canary or promotion, and not for one that was rolled back meanwhile.
"""

from __future__ import annotations

from cluster.client import Client
from cluster.decisions import read
from cluster.records import Decision, Verdict
from cluster.registry import Registry
from pipelines.artifacts import Candidate
from pipelines.evaluate import served
from pipelines.steps import Run


def publish(run: Run, candidate: Candidate, verdict: Verdict) -> Decision:
    """Publish or reject, and mirror what was decided to MLflow. Returns the decision, made now or before."""
    with run.timed("publish"):
        decision = _made(run, candidate) or _make(run, candidate, verdict)
        Registry(run.settings).mirror_aliases(read(run.state))
    return decision


def _make(run: Run, candidate: Candidate, verdict: Verdict) -> Decision:
    alias, version, reason = run.recipe.alias, candidate.version.id, "; ".join(verdict.reasons)
    with Client(run.settings) as client:
        champion = served(client, alias)["champion"]
        if verdict.accepted and champion != verdict.champion:
            # Somebody promoted or rolled back during the evaluation: better than the old champion proves nothing now.
            overtaken = f"measured against {verdict.champion}, but {champion} is the champion by now"
            return client.reject(alias, version, overtaken, verdict.model_copy(update={"accepted": False}))
        decide = client.publish if verdict.accepted else client.reject
        return decide(alias, version, reason, verdict)


def _made(run: Run, candidate: Candidate) -> Decision | None:
    """The decision on this candidate that is in the log already: a version is published once.

    Only if it came after the candidate was last staged: when a replica could not load it in time, rollout lets it go by
    itself, and the cycle that goes on stages it anew.
    """
    mine = [
        decision
        for decision in read(run.state)
        if (decision.alias, decision.version) == (run.recipe.alias, candidate.version.id)
    ]
    return mine[-1] if mine and mine[-1].action in ("canary", "promote", "reject") else None
