"""A verdict is carried out once, by asking the one who may move aliases."""

from __future__ import annotations

import pytest

from cluster.records import Version
from pipelines.artifacts import Candidate
from pipelines.publish import publish
from pipelines.recipe import Recipe
from pipelines.steps import Run
from tests.examples import verdict
from tests.pipelines.deployment import serve

CANDIDATE = Candidate(Version(name="assistant", number=1, base="seed", form="adapter", created=0.0), {})


@pytest.fixture
def deployment(tmp_path):
    with serve(tmp_path / "state") as running:
        running.decide("stage", {"alias": "assistant", "version": "assistant@1"})
        yield running


@pytest.fixture
def run(deployment):
    return Run.open(deployment.settings, Recipe(), "test")


@pytest.mark.parametrize("action", ["canary", "promote"])
def test_accepted_candidate_goes_on_with_its_verdict(deployment, run, action):
    deployment.publishes = action
    decision = publish(run, CANDIDATE, verdict())
    assert (decision.action, decision.version, decision.reason) == (action, "assistant@1", "better by a margin")
    assert decision.verdict == verdict()
    assert deployment.actions[-1] == (action, "assistant@1")


def test_rejected_candidate_is_let_go(deployment, run):
    assert publish(run, CANDIDATE, verdict(accepted=False)).action == "reject"
    assert deployment.actions[-1] == ("reject", "assistant@1")


@pytest.mark.parametrize("accepted", [True, False])
def test_publishing_again_after_a_kill_decides_nothing_twice(deployment, run, accepted):
    first = publish(run, CANDIDATE, verdict(accepted=accepted))
    assert publish(run, CANDIDATE, verdict(accepted=accepted)) == first
    assert len(deployment.actions) == 3


@pytest.mark.parametrize(("action", "end"), [("promote", "rollback"), ("canary", "reject")])
def test_what_was_rolled_back_meanwhile_is_not_published_again(deployment, run, action, end):
    deployment.publishes = action
    publish(run, CANDIDATE, verdict())
    back = "assistant@0" if end == "rollback" else "assistant@1"
    deployment.decide(end, {"alias": "assistant", "version": back})
    publish(run, CANDIDATE, verdict())
    assert deployment.actions[-1] == (end, back)


def test_candidate_measured_against_a_former_champion_is_not_promoted(deployment, run):
    deployment.decide("promote", {"alias": "assistant", "version": "assistant@5"})
    decision = publish(run, CANDIDATE, verdict())
    assert decision.action == "reject"
    assert "assistant@5 is the champion by now" in decision.reason
