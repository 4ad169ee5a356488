"""The real thing: vLLM on Ray Serve behind HAProxy, two bases behind one `base_url`, adapters at run time, kills."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import psutil
import pytest

from cluster import deploy, head
from cluster.client import Client
from cluster.log import Log, LogSettings
from cluster.records import Entry, Record
from cluster.registry import Registry
from tests.conftest import Cluster
from tests.services.tiny import make_adapter, make_model

pytestmark = pytest.mark.ray

PAIR = "pair"
"""The second base: a tiny Llama with random weights, served by two replicas."""
TOOL = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Switch a light",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"room": {"enum": ["kitchen", "hall"]}, "on": {"type": "boolean"}},
            "required": ["room", "on"],
            "additionalProperties": False,
        },
    },
}
HI: Any = [{"role": "user", "content": "please switch on the light in the kitchen"}]


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=cluster.base_url, api_key=cluster.api_key, max_retries=0, timeout=300)


@pytest.fixture(scope="module")
def pair(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second application beside the first; three adapters of its base, the last one of a rank that is too high."""
    folder = tmp_path_factory.mktemp("pair")
    model = make_model(folder / "model", seed=1)
    registry = Registry(cluster.settings)
    for number, rank in ((1, 8), (2, 8), (3, 64)):
        adapter = make_adapter(model, folder / f"adapter{number}", rank, seed=number)
        registry.create("helper", PAIR, "adapter", rank, "helper@0", None, adapter)
    route = f"/bases/{PAIR}"
    arguments = {"model": str(model), "name": PAIR, "route": route, "replicas": 2, "max_loras": 2, "max_lora_rank": 8}
    application = {
        "name": PAIR,
        "route_prefix": route,
        "import_path": "services.serving:build",
        "args": {**arguments, "longest_stream_s": 5},
    }
    with deploy.Serve(cluster.settings.dashboard_url, head.token(cluster.settings)) as serve:
        before = deploy.beside({"applications": []}, serve.details(), set())
        serve.deploy({**before, "applications": [*before["applications"], application]})
        try:
            deploy.wait(
                serve, {PAIR}, print, unplaced_s=600
            )  # placed, but Serve says otherwise until its process starts
            with Client(cluster.settings, cluster.api_key) as rollout:
                rollout.create("helper", PAIR)
            yield PAIR
        finally:
            serve.deploy(before)


def records(cluster: Cluster) -> dict[str, Record]:
    """What is logged. Segments first: what the compactor moves meanwhile is in the table then."""
    log = Log(cluster.state / "log", LogSettings())
    entries: list[Entry] = [*log.entries(), *log.read(None)]
    return {entry.request_id: entry for entry in entries if isinstance(entry, Record)}


def test_chat_whole_and_streamed_say_the_same_and_are_logged_alike(cluster: Cluster, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="assistant", messages=HI, max_tokens=16, temperature=0)
    whole = raw.parse()
    with client.chat.completions.with_streaming_response.create(
        model="assistant", messages=HI, max_tokens=16, temperature=0, stream=True
    ) as response:
        chunks = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
        streamed_id = response.headers["x-request-id"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text == whole.choices[0].message.content
    with Client(cluster.settings, cluster.api_key) as admin:  # other tests may have promoted meanwhile
        assert raw.headers["x-trivium-version"] == admin.rollout()["aliases"]["assistant"]["champion"]
    assert raw.headers["x-request-id"] in whole.id
    unary, streamed = (records(cluster)[i] for i in (raw.headers["x-request-id"], streamed_id))
    varying = {"request_id", "session", "time", "streamed", "ttft_s", "latency_s"}
    assert unary.model_dump(exclude=varying) == streamed.model_dump(exclude=varying)
    assert whole.usage and unary.completion_tokens == whole.usage.completion_tokens


def test_a_required_tool_call_has_the_offered_name_and_valid_arguments(client: openai.OpenAI) -> None:
    for stream in (False, True):
        answer: Any = client.chat.completions.create(
            model="assistant", messages=HI, tools=[TOOL], tool_choice="required", max_tokens=256, stream=stream
        )  # type: ignore[call-overload]
        if stream:
            parts = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
            name = "".join(part.function.name or "" for part in parts)
            arguments = "".join(part.function.arguments or "" for part in parts)
        else:
            assert answer.choices[0].finish_reason != "length", answer.choices[0].message
            (call,) = answer.choices[0].message.tool_calls[:1]
            name, arguments = call.function.name, call.function.arguments
        assert name == "set_light"
        given = json.loads(arguments)
        assert given["room"] in ("kitchen", "hall") and isinstance(given["on"], bool)


def test_responses_and_completions_answer(cluster: Cluster, client: openai.OpenAI) -> None:
    whole = client.responses.create(model="assistant", input="hello", max_output_tokens=8, temperature=0)
    events = list(
        client.responses.create(model="assistant", input="hello", max_output_tokens=8, temperature=0, stream=True)
    )
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
    assert client.completions.create(model="seed", prompt="hello", max_tokens=4).choices[0].finish_reason
    assert whole.id.removeprefix("resp_") in records(cluster)


def test_models_are_listed_and_feedback_is_taken(cluster: Cluster, client: openai.OpenAI) -> None:
    assert {"assistant", "seed"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("assistant").id == "assistant"
    answer = client.chat.completions.create(model="assistant", messages=HI, max_tokens=4)
    taken = client.post("/feedback", body={"request_id": answer.id, "score": 1.0}, cast_to=httpx.Response)
    assert taken.status_code == 200
    with pytest.raises(openai.NotFoundError):
        client.post("/feedback", body={"request_id": "req-0", "score": 1.0}, cast_to=httpx.Response)


def test_the_public_port_answers_the_allow_list_and_nothing_else(cluster: Cluster, client: openai.OpenAI) -> None:
    root = cluster.base_url.removesuffix("/v1")
    key = {"authorization": f"Bearer {cluster.api_key}"}
    for path in ("/docs", "/openapi.json", "/metrics", "/tokenize", "/v1/load_lora_adapter", "/load", "/invocations"):
        assert httpx.get(root + path).status_code == 401
        assert httpx.get(root + path, headers=key).status_code == 404
        assert httpx.post(root + path, headers=key, json={}).status_code == 404
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=HI)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="assistant", messages=HI, temperature=-1)


def test_what_callers_say_to_serve_by_header_is_not_heard(cluster: Cluster) -> None:
    given = {
        "authorization": f"Bearer {cluster.api_key}",
        "x-request-id": "mine",
        "x-request-timeout-seconds": "0.000001",
        "serve_multiplexed_model_id": "/etc",
    }
    body = {"model": "assistant", "messages": HI, "max_tokens": 4}
    answer = httpx.post(f"{cluster.base_url}/chat/completions", json=body, headers=given, timeout=60)
    assert answer.status_code == 200
    (request_id,) = answer.headers.get_list("x-request-id")
    assert request_id.startswith("req-")


def test_a_second_base_answers_behind_the_same_url_and_streams(
    cluster: Cluster, client: openai.OpenAI, pair: str
) -> None:
    raw = client.chat.completions.with_raw_response.create(model=pair, messages=HI, max_tokens=8, temperature=0)
    chunks = list(client.chat.completions.create(model=pair, messages=HI, max_tokens=8, temperature=0, stream=True))
    assert raw.headers["x-trivium-version"] == f"{pair}@0"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == raw.parse().choices[0].message.content
    assert records(cluster)[raw.headers["x-request-id"]].version == f"{pair}@0"
    assert pair in {model.id for model in client.models.list()}


def test_adapters_load_at_run_time_and_answer_differently(client: openai.OpenAI, pair: str) -> None:
    def say(model: str) -> str | None:
        answer = client.chat.completions.create(model=model, messages=HI, max_tokens=16, temperature=0)
        return answer.choices[0].message.content

    names = ("helper@0", "helper@1", "helper@2")
    first = [say(name) for name in names]
    assert len(set(first)) == 3
    assert [say(name) for name in names] == first


@dataclass
class Traffic:
    """Clients that ask without pause; what each got, by when it had asked."""

    url: str
    key: str
    model: str
    answers: list[tuple[float, str, str]] = field(default_factory=list)
    """(time of asking, version, request id)"""
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Traffic:
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.answers) > 8)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        body = {"model": self.model, "messages": HI, "max_tokens": 8, "stream": True}
        with httpx.Client(headers={"authorization": f"Bearer {self.key}"}, timeout=300) as client:
            while not self._over.is_set():
                asked = time.time()
                try:
                    answer = client.post(f"{self.url}/chat/completions", json=body)
                    assert answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n"), answer.text
                    self.answers.append((asked, answer.headers["x-trivium-version"], answer.headers["x-request-id"]))
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"{time.time():.1f} {error!r}")
                self._over.wait(0.05)

    def latest(self) -> str:
        return self.answers[-1][1]


def wait_for(holds: Callable[[], Any], within_s: float = 600) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_promotion_and_rollback_reach_all_replicas_in_three_seconds(cluster: Cluster, pair: str) -> None:
    with (
        Client(cluster.settings, cluster.api_key) as rollout,
        Traffic(cluster.base_url, cluster.api_key, "helper") as traffic,
    ):
        for move, version in (("promote", "helper@1"), ("promote", "helper@2"), ("rollback", "helper@1")):
            asked = time.time()
            rollout.promote("helper", version, "test") if move == "promote" else rollout.rollback("helper", "test")
            done = time.time()
            wait_for(lambda done=done: sum(at > done for at, _, _ in traffic.answers) > 12)
            assert {answered for at, answered, _ in traffic.answers if at > done} == {version}
            if move == "rollback":
                assert done - asked < 3
        held = rollout.rollout()["replicas"][pair]
    assert traffic.failures == []
    assert len(held) == 2 and all({"helper@1", "helper@0"} <= set(replica["versions"]) for replica in held)


def test_a_version_that_no_replica_can_load_never_becomes_the_champion(cluster: Cluster, pair: str) -> None:
    with Client(cluster.settings, cluster.api_key) as rollout:
        champion = rollout.rollout()["aliases"]["helper"]["champion"]
        with pytest.raises(ValueError, match="rank"):
            rollout.promote("helper", "helper@3", "test")
        alias = rollout.rollout()["aliases"]["helper"]
    assert (alias["champion"], alias["staged"]) == (champion, None)


def processes(cluster: Cluster, name: str) -> list[psutil.Process]:
    """Processes of this cluster by what they call themselves."""
    found = []
    for process in psutil.process_iter():
        try:
            if name in " ".join(process.cmdline()) and process.environ().get("TRIVIUM_STATE") == str(cluster.state):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_one_of_two_replicas_killed_is_replaced_and_holds_the_same_versions(cluster: Cluster, pair: str) -> None:
    victim = processes(cluster, f"ServeReplica:{PAIR}:")[0]
    with (
        Client(cluster.settings, cluster.api_key) as rollout,
        Traffic(cluster.base_url, cluster.api_key, "helper") as traffic,
    ):
        champion = rollout.rollout()["aliases"]["helper"]["champion"]
        os.kill(victim.pid, signal.SIGKILL)
        answered = len(traffic.answers)
        wait_for(lambda: len(traffic.answers) > answered + 8)  # the other one goes on meanwhile
        wait_for(lambda: len(rollout.rollout()["replicas"].get(pair, [])) == 2)
        held = rollout.rollout()["replicas"][pair]
    assert all(champion in replica["versions"] for replica in held)
    logged = records(cluster)
    assert all(request_id in logged for _, _, request_id in traffic.answers)


def test_a_killed_engine_comes_back_by_itself_and_nothing_answered_is_lost(cluster: Cluster) -> None:
    with Traffic(cluster.base_url, cluster.api_key, "seed") as traffic:
        replicas = {process.pid for process in processes(cluster, "ServeReplica:assistant:")}
        engines = [p for p in processes(cluster, "VLLM::EngineCore") if any(q.pid in replicas for q in p.parents())]
        for engine in engines:
            engine.kill()
        died = time.time()
        wait_for(lambda: any(at > died + 1 for at, _, _ in traffic.answers))
    assert engines
    logged = records(cluster)
    assert all(request_id in logged for _, _, request_id in traffic.answers)
    late = [failure for failure in traffic.failures if float(failure.split()[0]) > died + 5]
    assert late == [], "once the replica is gone, callers wait for the next one"
