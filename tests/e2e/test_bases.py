"""A second base behind the same `base_url`, a model of one's own on two replicas: a tiny Qwen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError

from cluster import deploy, head
from cluster.client import Client
from cluster.registry import Registry
from tests.conftest import Cluster
from tests.e2e import tiny_qwen
from tests.e2e.using import (
    Load,
    answers,
    client,
    example,
    logged_records,
    one_answer,
    recipe,
    runs,
    tool,
)
from tests.services.tiny import make_adapter
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

QWEN = "tiny-qwen"
WEATHER = tool("weather", "city")
RANK = 16
MOST_TOKENS = 256


@pytest.fixture(scope="module")
def qwen(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second application beside the first, with two aliases: `scholar` will learn, `helper` has three adapters of
    random weights, the last one of a rank that is too high."""
    folder = tmp_path_factory.mktemp("qwen")
    model, registry = tiny_qwen.build(folder / QWEN), Registry(cluster.settings)
    for number, rank in ((1, 8), (2, 8), (3, 2 * RANK)):
        adapter = make_adapter(model, folder / f"adapter{number}", rank, seed=number)
        registry.create("helper", QWEN, "adapter", rank, "helper@0", None, adapter)
    route = f"/bases/{QWEN}"
    arguments = {"model": str(model), "name": QWEN, "route": route, "replicas": 2, "longest_stream_s": 5}
    application = {
        "name": QWEN,
        "route_prefix": route,
        "import_path": "services.serving:build",
        "args": {**arguments, "max_loras": 4, "max_lora_rank": RANK, "most_tokens": MOST_TOKENS},
    }
    with deploy.Serve(cluster.settings.dashboard_url, head.token(cluster.settings)) as serve:
        before = deploy.beside({"applications": []}, serve.details(), set())
        serve.deploy({**before, "applications": [*before["applications"], application]})
        try:
            deploy.wait(serve, {QWEN}, print, unplaced_s=600)
            with Client(cluster.settings, cluster.api_key) as admin:
                for alias in ("scholar", "helper"):
                    admin.create(alias, QWEN)
            yield QWEN
        finally:
            serve.deploy(before)


def test_both_bases_answer_behind_one_base_url_and_are_logged(cluster: Cluster, qwen: str, tmp_path: Path) -> None:
    champion, heard = answers(cluster), []
    with client(cluster) as api:
        listed = {model.id for model in api.models.list()}
        assert {"seed", qwen, "assistant", "scholar", "helper"} <= listed
        for model, version in (("assistant", champion), ("scholar", "scholar@0"), (qwen, f"{qwen}@0")):
            whole, streamed = (one_answer(api, model, "hello", stream, begun=0) for stream in (False, True))
            assert whole.version == streamed.version == version
            assert whole.text == streamed.text is not None
            heard += [whole, streamed]
    logged = logged_records(cluster, tmp_path / "log.jsonl")
    for answer in heard:
        assert answer.request_id and logged[answer.request_id]["version"] == answer.version


def test_an_answer_is_as_long_as_its_base_allows(cluster: Cluster, qwen: str) -> None:
    with client(cluster) as api:
        hello = [{"role": "user", "content": "hello"}]
        say: Any = {"model": qwen, "messages": hello, "extra_body": {"ignore_eos": True}}
        assert api.chat.completions.create(**say).usage.completion_tokens == MOST_TOKENS
        with pytest.raises(BadRequestError, match=f"at most {MOST_TOKENS}"):
            api.chat.completions.create(**say, max_tokens=MOST_TOKENS + 1)


def test_qwen_calls_tools_through_its_own_template_and_parser(cluster: Cluster, qwen: str) -> None:
    with client(cluster) as api:
        answer = api.chat.completions.create(
            model="scholar",
            messages=[{"role": "user", "content": "What is the weather in Rome?"}],
            tools=[WEATHER],
            tool_choice="required",
            max_tokens=64,
            temperature=0,
        )
    assert {call.function.name for call in answer.choices[0].message.tool_calls or []} <= {"weather"}


def test_adapters_load_at_run_time_and_answer_differently(cluster: Cluster, qwen: str) -> None:
    names = ("helper@0", "helper@1", "helper@2")
    with client(cluster) as api:
        first = [one_answer(api, name, "switch on the light", False, begun=0) for name in names]
        assert [heard.version for heard in first] == list(names)
        assert len({heard.text for heard in first}) == 3
        again = [one_answer(api, name, "switch on the light", False, begun=0) for name in names]
    assert [heard.text for heard in again] == [heard.text for heard in first]


def test_promotion_and_rollback_reach_both_replicas_in_3_s_and_nothing_fails(cluster: Cluster, qwen: str) -> None:
    with Client(cluster.settings, cluster.api_key) as admin, Load(cluster, model="helper") as load:
        eventually(lambda: len(load.complete) >= 10, 60, "traffic")
        for move, version in (("promote", "helper@1"), ("promote", "helper@2"), ("rollback", "helper@1")):
            begun = time.monotonic()
            admin.promote("helper", version, "a test") if move == "promote" else admin.rollback("helper", "a test")
            if move == "rollback":
                assert time.monotonic() - begun < 3
            assert versions(load, since=time.monotonic()) == {version}, "the call returns when every replica follows"
        held = admin.rollout()["replicas"][qwen]
        for command, version in (("promote helper@2", "helper@2"), ("rollback helper", "helper@1")):
            cluster.trivium(*command.split())
            assert versions(load, since=time.monotonic()) == {version}
    assert not load.failures
    assert len(held) == 2 and all({"helper@1", "helper@0"} <= set(replica["versions"]) for replica in held)


def versions(load: Load, since: float) -> set[str | None]:
    """Who answered what was asked from a moment on."""
    eventually(lambda: len(load.after(since)) >= 20, 60, "traffic afterwards")
    return {heard.version for heard in load.after(since)}


def test_a_version_that_no_replica_can_load_never_becomes_the_champion(cluster: Cluster, qwen: str) -> None:
    with Client(cluster.settings, cluster.api_key) as admin:
        champion = admin.rollout()["aliases"]["helper"]["champion"]
        with pytest.raises(ValueError, match="rank"):
            admin.promote("helper", "helper@3", "a test")
        alias = admin.rollout()["aliases"]["helper"]
    assert (alias["champion"], alias["staged"]) == (champion, None)


def test_a_whole_cycle_turns_on_qwen(cluster: Cluster, qwen: str, tmp_path: Path) -> None:
    """Every city has the same weather here: even random weights can be tuned to say so."""
    firsts, lasts = ("Ab", "Bri", "Cor", "Dun", "Ely"), ("ton", "ham", "by", "ford", "wick")
    phrases = ("weather in", "is it raining in", "how warm is", "sky over")
    asked = [f"{phrase} {first}{last}" for first in firsts for last in lasts for phrase in phrases]
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    lines = [example(text, call, [WEATHER], f"q-{at // 4}") for at, text in enumerate(asked)]
    (tmp_path / "qwen.jsonl").write_text("\n".join(lines))
    cluster.trivium("log", "import", "--alias", "scholar", str(tmp_path / "qwen.jsonl"))
    file = recipe(
        tmp_path / "recipe.yaml",
        alias="scholar",
        curation={"near_duplicate": 1, "min_rows": 16},
        training={"epochs": 60, "learning_rate": 0.005, "batch_tokens": 512, "rank": RANK},
        evaluation={"max_tokens": 64},
        gate={"min_rows": 8},
    )
    champion = answers(cluster)
    cluster.trivium("cycle", "--recipe", str(file))
    run = runs(cluster)[-1]
    assert run["outcome"] == "canary", json.dumps(run["verdict"])
    cluster.trivium("promote", "scholar@1")  # it has no users who could say more
    assert answers(cluster, "scholar") == "scholar@1" and answers(cluster) == champion


def test_the_engine_of_one_of_two_replicas_killed_only_its_own_requests_fail_and_a_new_one_holds_the_same(
    cluster: Cluster, qwen: str, tmp_path: Path
) -> None:
    replica = cluster.processes(f"ServeReplica:{qwen}:")[0]
    engine = next(child for child in replica.children(recursive=True) if "EngineCore" in child.name())
    with Client(cluster.settings, cluster.api_key) as admin, Load(cluster, model="helper") as load:
        champion = admin.rollout()["aliases"]["helper"]["champion"]
        eventually(lambda: len(load.complete) >= 10, 60, "traffic")
        engine.kill()
        dead, alive = time.monotonic(), len(load.complete)
        eventually(lambda: len(load.complete) > alive + 8, 60, "the other one goes on meanwhile")
        eventually(lambda: not replica.is_running(), 60, "a replica without its engine ends")
        eventually(lambda: len(admin.rollout()["replicas"].get(qwen, [])) == 2, 300, "a new replica")
        held = admin.rollout()["replicas"][qwen]
    late = [heard.error for heard in load.after(dead + 5) if heard.error]
    assert not late, "5 s after an engine's death the replica that died with it gets no more requests"
    assert all(champion in replica["versions"] for replica in held)
    logged = logged_records(cluster, tmp_path / "log.jsonl").keys()
    assert {heard.request_id for heard in load.complete} <= logged
