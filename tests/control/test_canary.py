"""Canaries on a running cluster: what the log says decides, and the controller may die meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from cluster.client import Client
from cluster.decisions import audit, fold, read
from cluster.log import Log
from cluster.records import Entry
from cluster.registry import Registry
from tests.cluster.test_registry import write_adapter
from tests.conftest import Cluster
from tests.pipelines.logs import feedback, record
from tests.waiting import eventually

pytestmark = pytest.mark.ray

NAME = "clerk"
"""An alias of its own: the wheel beside it counts the feedback of another."""


@pytest.fixture(scope="module")
def clerk(control: Cluster) -> Cluster:
    """With three versions, of which the first serves."""
    registry = Registry(control.settings)
    with Client(control.settings, control.api_key) as client:
        client.create(NAME, "tiny")
        for number in range(1, 4):
            folder = write_adapter(control.state / f"clerk{number}")
            registry.create(NAME, "tiny", "adapter", 8, f"{NAME}@0", None, folder)
        client.promote(NAME, f"{NAME}@1", "first")
    return control


@pytest.fixture
def client(clerk: Cluster) -> Iterator[Client]:
    """Asks as the owner; nothing is staged."""
    with Client(clerk.settings, clerk.api_key) as client:
        staged = client.rollout()["aliases"][NAME]["staged"]
        if staged:
            client.reject(NAME, staged, "left by another test")
        yield client


def traffic(cluster: Cluster, candidate: float | None, champion: float, sessions: int = 40, first: int = 0) -> None:
    """Sessions as the gateway would have logged them now, drawn by the canary that runs, each with feedback."""
    alias = fold(read(cluster.state)).aliases[NAME]
    assert alias.canary and alias.staged
    entries: list[Entry] = []
    now = time.time()
    for n in range(first, first + sessions):
        # Times before `now` by more than a session takes: they count at the controller's next look.
        drawn, at = alias.canary.draws(f"{NAME}-{n}"), {"time": max(now - 60, alias.canary.since)}
        version, arm = (alias.staged, "candidate") if drawn else (alias.champion, "champion")
        score = candidate if drawn else champion
        named = {"request_id": f"req-{NAME}-{now}-{n}", **at}
        entries.append(record(n, alias=NAME, session=f"{NAME}-{n}", version=version, arm=arm, latency_s=0.0, **named))
        if score is not None:
            entries.append(feedback(n, score, **named))
    with Log(cluster.state / "log").writer("canary-test") as writer:
        writer.append_many(entries)


def ended(cluster: Cluster, version: str) -> tuple[str, str]:
    """How a canary was decided, and by whom."""

    def last() -> tuple[str, str] | None:
        made = [decision for decision in read(cluster.state) if decision.version == version]
        return (made[-1].action, made[-1].actor) if made[-1].action in ("promote", "reject") else None

    return eventually(last, 60, f"a decision about {version}")


def test_an_accepted_candidate_is_tried_and_promoted_by_what_users_say(clerk: Cluster, client: Client) -> None:
    decision = client.publish(NAME, f"{NAME}@2", "the gate says so")
    assert (decision.action, decision.share, decision.version) == ("canary", 0.1, f"{NAME}@2")
    assert client.rollout()["aliases"][NAME]["champion"] == f"{NAME}@1", "the champion is not touched"
    with pytest.raises(ValueError, match="is in its canary; wait for its end"):
        client.stage(NAME, f"{NAME}@3", "another cycle")
    traffic(clerk, candidate=1.0, champion=0.1, sessions=300)
    assert ended(clerk, f"{NAME}@2") == ("promote", "rollout")
    made = read(clerk.state)[-1]
    assert made.reason.startswith("users like it better: score 1.000 against 0.100") and made.evidence
    assert made.evidence.better >= 1 / made.evidence.alpha
    shown = client.rollout()["aliases"][NAME]
    assert (shown["champion"], shown["canary"]) == (f"{NAME}@2", None)


def test_a_bad_candidate_is_rolled_back_by_itself_though_the_controller_dies(clerk: Cluster, client: Client) -> None:
    champion = client.rollout()["aliases"][NAME]["champion"]
    said = clerk.trivium("canary", f"{NAME}@3", "--share", "0.3", "--reason", "try it").stdout
    assert said.startswith(f"{NAME}@3 answers 30% of the sessions of {NAME} (decision ")
    traffic(clerk, candidate=0.5, champion=0.5, sessions=20)

    def sessions() -> int:
        seen = client.rollout()["aliases"][NAME]["canary"].get("evidence") or {}
        return sum(seen.get(f"{side}_sessions", 0) for side in ("candidate", "champion"))

    eventually(sessions, 60, "the first sessions are counted", lambda count: count == 20)
    assert f"{NAME}@3 in its canary" in clerk.trivium("status").stdout
    (process,) = clerk.processes("ServeReplica:rollout:")
    process.kill()
    traffic(clerk, candidate=0.0, champion=0.9, sessions=150, first=1000)
    assert ended(clerk, f"{NAME}@3") == ("reject", "rollout")
    made = read(clerk.state)[-1]
    assert made.reason.startswith("users like it less: score ")
    assert made.evidence and made.evidence.candidate_sessions > 5, "what was said before it died counts too"
    told = json.loads(clerk.trivium("lineage", f"{NAME}@3", "--json").stdout)
    assert told["status"] == "rolled back" and told["decisions"][-1]["evidence"]["worse"] > 1
    assert eventually(lambda: look(clerk), 60, "the rollout service") == champion


def test_a_share_grows_while_nothing_speaks_against_it(clerk: Cluster, client: Client) -> None:
    client.canary(NAME, f"{NAME}@3", "again")
    traffic(clerk, candidate=0.5, champion=0.5, sessions=120, first=5000)

    def share() -> float:
        canary = fold(read(clerk.state)).aliases[NAME].canary
        return canary.share if canary else 0.0

    eventually(share, 60, "a larger share", lambda seen: seen in (0.3, 0.5))
    assert client.reject(NAME, f"{NAME}@3", "enough").action == "reject"
    assert fold(read(clerk.state)).aliases[NAME].canary is None


def test_the_decision_log_is_a_chain_that_the_command_line_checks(clerk: Cluster, client: Client) -> None:
    said = clerk.trivium("audit").stdout
    found = audit(clerk.state)
    assert found.fault is None and said == f"{found.entries} entries, none changed; head {found.head}\n"
    assert clerk.trivium("audit", "--head", found.head).stdout == said
    refused = clerk.trivium("audit", "--head", "0" * 64, check=False)
    assert refused.returncode == 1 and "the log was cut off before it, or written anew" in refused.stderr


def look(cluster: Cluster) -> str | None:
    """The champion, from a client of its own: the service may have just died."""
    try:
        with Client(cluster.settings, cluster.api_key) as client:
            champion: str = client.rollout()["aliases"][NAME]["champion"]
            return champion
    except ValueError:
        return None
