"""The rollout application on a running cluster, over HTTP and the command line; two replicas to agree with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from cluster.client import Client
from cluster.decisions import fold, read
from cluster.mirror import Mirror
from cluster.registry import Registry
from tests.cluster.test_registry import write_adapter
from tests.conftest import Cluster
from tests.waiting import eventually

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def own(control: Cluster) -> Cluster:
    """With four versions to promote."""
    registry = Registry(control.settings)
    for number in range(1, 5):
        folder = write_adapter(control.state / f"adapter{number}")
        registry.create("assistant", "tiny", "adapter", 8, "assistant@0", None, folder)
    return control


@pytest.fixture
def client(own: Cluster) -> Iterator[Client]:
    """Asks as the owner; the alias serves assistant@1 and nothing is staged."""
    with Client(own.settings, own.api_key) as client:
        client.create("assistant", "tiny")
        staged = client.rollout()["aliases"]["assistant"]["staged"]
        if staged:
            client.reject("assistant", staged, "left by another test")
        client.promote("assistant", "assistant@1", "each test starts here")
        yield client


def answers(cluster: Cluster, at_least: int = 40) -> list[dict[str, Any]]:
    """What clients get, each over a connection of its own, so that both replicas answer."""
    found = []
    while len(found) < at_least or len({answer["pid"] for answer in found}) < 2:
        found.append(httpx.get(f"http://127.0.0.1:{cluster.settings.http_port}/", trust_env=False).json())
        assert len(found) < 2000, "only one replica ever answers"
    return found


def actions(cluster: Cluster) -> list[tuple[str, str]]:
    return [(decision.action, decision.version) for decision in read(cluster.state)]


def test_creating_an_alias_again_changes_nothing_and_another_base_is_refused(own: Cluster, client: Client) -> None:
    before = actions(own)
    assert client.create("assistant", "tiny").version == "assistant@0"
    with pytest.raises(ValueError, match="assistant@0 is the base tiny, not other"):
        client.create("assistant", "other")
    assert actions(own) == before
    assert Registry(own.settings).get("assistant@0").base == "tiny"


def test_a_staged_version_is_held_by_every_replica_and_answers_nobody(own: Cluster, client: Client) -> None:
    decision = client.stage("assistant", "assistant@3", "to be evaluated")
    shown = client.rollout()
    assert shown["sequence"] == decision.sequence
    assert shown["aliases"]["assistant"]["staged"] == "assistant@3"
    assert [set(r["versions"]) >= {"assistant@1", "assistant@3"} for r in shown["replicas"]["assistant"]] == [
        True,
        True,
    ]
    assert {answer["champion"] for answer in answers(own)} == {"assistant@1"}


def test_all_replicas_answer_with_the_new_champion_when_promote_returns(own: Cluster, client: Client) -> None:
    before = len(actions(own))
    client.promote("assistant", "assistant@2", "better")
    found = answers(own)
    assert {answer["champion"] for answer in found} == {"assistant@2"}
    assert all({"assistant@1", "assistant@2"} <= set(answer["versions"]) for answer in found)
    assert actions(own)[before:] == [("stage", "assistant@2"), ("promote", "assistant@2")]


def test_a_rollback_is_answered_by_all_replicas_within_three_seconds(own: Cluster, client: Client) -> None:
    client.promote("assistant", "assistant@2", "better")
    started = time.monotonic()
    decision = client.rollback("assistant", "worse after all")
    took_s = time.monotonic() - started
    assert decision.version == "assistant@1"
    assert {answer["champion"] for answer in answers(own)} == {"assistant@1"}
    assert took_s < 3
    assert client.rollback("assistant", "asked again", version="assistant@1") == decision


def test_a_version_that_replicas_cannot_load_is_rejected_and_the_champion_stays(own: Cluster, client: Client) -> None:
    registry = Registry(own.settings)
    weights = registry.folder("assistant@4") / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:40])  # a disk that lost its end
    before = len(actions(own))
    with pytest.raises(ValueError, match=r"replica \w+ of assistant cannot load assistant@4: .*safetensors"):
        client.promote("assistant", "assistant@4", "better")
    assert actions(own)[before:] == [("stage", "assistant@4"), ("reject", "assistant@4")]
    assert {answer["champion"] for answer in answers(own)} == {"assistant@1"}
    assert "cannot load" in read(own.state)[-1].reason


@pytest.mark.parametrize(
    ("action", "order", "complaint"),
    [
        ("stage", {"alias": "assistant", "version": "assistant@99"}, "no version assistant@99 in the registry"),
        ("stage", {"alias": "assistant", "version": "../etc@1"}, "is not a version"),
        ("promote", {"alias": "assistant"}, "say which version of assistant, for example assistant@1"),
        ("promote", {"alias": "helper", "version": "assistant@2"}, "there is no alias helper; there are: "),
        ("reject", {"alias": "assistant", "version": "assistant@2"}, "it is not staged"),
        ("rollback", {"alias": "assistant", "version": "assistant@3"}, "a rollback of assistant leads to"),
        ("create", {"alias": "../x", "base": "tiny"}, "cannot be an alias"),
        ("create", {"alias": "helper"}, "create needs a base"),
        ("stage", {"alias": "assistant", "version": 2}, "version: Input should be a valid string"),
    ],
)
def test_what_is_not_legal_is_refused_and_changes_nothing(
    own: Cluster, client: Client, action: str, order: dict[str, Any], complaint: str
) -> None:
    before = actions(own)
    with pytest.raises(ValueError, match=complaint):
        client.post(f"/admin/rollout/{action}", order)
    assert actions(own) == before


def test_without_an_admin_key_nothing_is_told(own: Cluster, client: Client) -> None:
    for key in ("Bearer sk-trivium-wrong", "Bearer", ""):
        url = f"http://127.0.0.1:{own.settings.http_port}/admin/rollout"
        answer = httpx.get(url, headers={"authorization": key}, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


def test_promotions_at_once_come_one_after_the_other(own: Cluster, client: Client) -> None:
    def promote(version: str) -> str | None:
        try:
            with Client(own.settings, own.api_key) as another:
                return another.promote("assistant", version, "at once").version
        except ValueError as refused:
            assert "another decision came between" in str(refused)
            return None

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(promote, ["assistant@2", "assistant@3"] * 2))
    alias = fold(read(own.state)).aliases["assistant"]
    assert alias.champion in done, "one of them got through"
    assert {answer["champion"] for answer in answers(own)} == {alias.champion}


def test_a_promotion_while_a_replica_dies_still_reaches_all(own: Cluster, client: Client) -> None:
    victim = answers(own)[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    client.promote("assistant", "assistant@2", "in the middle of it")
    found = eventually(
        lambda: answers(own), 60, "a new replica answers", lambda found: all(each["pid"] != victim for each in found)
    )
    assert {answer["champion"] for answer in found} == {"assistant@2"}, "the new replica as well"


def test_the_rollout_service_dies_and_comes_back_with_the_same_state(own: Cluster, client: Client) -> None:
    before = client.rollout()["aliases"]
    (process,) = own.processes("ServeReplica:rollout:")
    process.kill()
    assert {answer["champion"] for answer in answers(own)} == {"assistant@1"}, "answers do not need it"

    def back() -> Any:
        try:
            return client.rollout()["aliases"]
        except ValueError:
            return None

    assert eventually(back, 60, "the rollout service") == before


def test_the_command_line_promotes_and_rolls_back(own: Cluster, client: Client) -> None:
    said = own.trivium("promote", "assistant@2", "--reason", "it [is] better").stdout
    assert said.startswith("assistant@2 serves assistant (decision ") and "it [is] better" in said
    assert own.trivium("rollback").stdout.startswith("assistant@1 serves assistant")
    refused = own.trivium("promote", "assistant@77", check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().startswith("Error: there is no version assistant@77 in the registry")
    assert "Traceback" not in refused.stderr


def test_mlflow_follows(own: Cluster, client: Client) -> None:
    client.promote("assistant", "assistant@2", "better")

    def shown() -> bool:
        with Mirror(own.settings)._connection() as mlflow:
            aliases = mlflow.get_registered_model("assistant").aliases
            version = mlflow.get_model_version("assistant", str(aliases.get("champion", 1)))
            return version.tags["trivium.version"] == "assistant@2"

    eventually(shown, 60, "MLflow shows the champion")


def test_the_state_that_is_shown_has_these_parts(own: Cluster, client: Client) -> None:
    shown = client.rollout()
    assert set(shown) == {"sequence", "aliases", "replicas"}
    assert set(shown["aliases"]["assistant"]) == {"champion", "base", "history", "staged", "canary"}
    assert {"replica", "versions"} <= set(shown["replicas"]["assistant"][0])
