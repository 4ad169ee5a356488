"""Agents on a running cluster, over HTTP and the command line: what they do, and what they survive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import yaml
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types.a2a_pb2 import Message, Part, Role, SendMessageRequest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from cluster.environment import client_environment
from cluster.log import Log
from cluster.records import Record
from tests.conftest import Cluster
from tests.control.agents import ARGS
from tests.control.conftest import ROOT
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

APPS = ROOT / ".venv" / "apps" / "bin" / "python"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two replicas of agents, and /mcp, beside a model that says what it is told to."""
    folder = tmp_path_factory.mktemp("agents")
    cluster = Cluster.on_free_ports(folder / "state")
    variables = {"PYTHONPATH": str(ROOT), "SHOP_FOLDER": str(folder)}
    cluster = replace(cluster, variables={**cluster.variables, **variables})
    cluster.state.mkdir()
    agents = {"name": "agents", "route_prefix": "/agents", "import_path": "tests.control.agents:app", "args": ARGS}
    mcp = {"name": "mcp", "route_prefix": "/mcp", "import_path": "services.agents.mcp_app:build", "args": {}}
    config = {
        "proxy_location": "EveryNode",
        "applications": [
            mcp,
            {"name": "thinker", "route_prefix": "/", "import_path": "tests.control.thinker:app"},
            {**agents, "deployments": [{"name": "agents", "num_replicas": 2}]},
        ],
    }
    (cluster.state / "serve.yaml").write_text(yaml.safe_dump(config))
    try:
        up(cluster)
        yield cluster
    finally:
        cluster.trivium("down", check=False)


def up(cluster: Cluster) -> None:
    cluster.trivium("up", "--config", str(cluster.state / "serve.yaml"))


class Web:
    """The REST interface, as somebody with a key sees it."""

    def __init__(self, cluster: Cluster, key: str | None = None) -> None:
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{cluster.settings.http_port}/agents",
            headers={"authorization": f"Bearer {key or cluster.api_key}"},
            timeout=30,
            trust_env=False,
        )

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self._http.request(method, path, json=body, headers=headers)

    def start(self, agent: str, *turns: Any, **rest: Any) -> dict[str, Any]:
        answer = self.ask("POST", f"/{agent}/runs", {"input": json.dumps(turns), **rest})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def run(self, run: str) -> dict[str, Any] | None:
        """None while no replica answers."""
        try:
            answer = self.ask("GET", f"/runs/{run}")
        except httpx.TransportError:
            return None
        return answer.json() if answer.is_success else None

    def becomes(self, run: str, state: str, within_s: float = 60) -> dict[str, Any]:
        return eventually(lambda: self.run(run), within_s, f"{run} is {state}", lambda seen: seen["state"] == state)

    def events(self, run: str, **headers: str) -> list[dict[str, Any]]:
        with self._http.stream("GET", f"/runs/{run}/events", headers=headers, timeout=60) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            return [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]


@pytest.fixture
def web(place: Cluster) -> Web:
    return Web(place)


def notes(cluster: Cluster) -> list[str]:
    path = cluster.state / "effects" / "notes"
    return path.read_text().splitlines() if path.exists() else []


def free(cluster: Cluster, what: str) -> None:
    """What is held by the tool `hold` goes on."""
    (cluster.state / "effects").mkdir(exist_ok=True)
    (cluster.state / "effects" / what).touch()


def key(cluster: Cluster, name: str, *scopes: str) -> str:
    made = cluster.trivium("keys", "create", name, *(part for scope in scopes for part in ("--scope", scope)))
    return made.stdout.strip()


def owner(steps: list[dict[str, Any]]) -> int:
    """The process that wrote the last step: its log writer is called `agents-HOST-PROCESS-RANDOM`."""
    return int(steps[-1]["source"].split("-")[-2])


def test_a_run_over_rest_is_followed_and_recorded(place: Cluster, web: Web) -> None:
    begun = web.start("clerk", [["note", {"text": "rest"}]], "all done", thread="talk")
    ended = web.becomes(begun["id"], "completed")
    assert (ended["answer"], ended["turns"], ended["tokens"]) == ("all done", 2, 18)
    steps = web.events(begun["id"])
    assert [step["event"] for step in steps] == ["start", "model", "decision", "call", "result", "model", "end"]
    assert web.events(begun["id"], **{"last-event-id": "4"}) == steps[5:]
    assert [line for line in notes(place) if "rest" in line] == [f"note rest {begun['id']}.1.0"]
    thought = steps[1]["body"]
    assert (thought["token_ids"], thought["logprobs"]) == ([1, 2], [-0.5, -0.25])
    records = [entry for entry in Log(place.state / "log").entries() if isinstance(entry, Record)]
    (record,) = [entry for entry in records if entry.request_id == thought["request_id"]]
    assert (record.session, record.principal, record.version) == ("talk", "owner", thought["version"])
    assert {agent for agent in web.ask("GET", "").json()["agents"]} == {"clerk", "helper"}


def test_what_is_wrong_is_said_in_openais_words(web: Web) -> None:
    for method, path, body, status, complaint in [
        ("POST", "/nobody/runs", {"input": "x"}, 404, "there is no agent nobody; there are: clerk, helper"),
        ("POST", "/clerk/runs", {"input": ""}, 400, "input: String should have at least 1 character"),
        ("POST", "/clerk/runs", {"input": "x", "limits": {"turns": 99}}, 409, "limits.turns is at most 16"),
        ("POST", "/clerk/runs", {"input": "x", "speed": 1}, 400, "speed: Extra inputs are not permitted"),
        ("GET", "/runs/run-none", None, 404, "there is no run run-none"),
        ("GET", "/runs/run-none/events", None, 404, "there is no run run-none"),
    ]:
        answer = web.ask(method, path, body)
        assert (answer.status_code, answer.json()["error"]["message"][: len(complaint)]) == (status, complaint)


def test_keys_without_the_scope_and_other_principals_see_nothing(place: Cluster, web: Web) -> None:
    run = web.start("clerk", "secret")["id"]
    web.becomes(run, "completed")
    other = Web(place, key(place, "other", "agents"))
    assert other.ask("GET", f"/runs/{run}").status_code == 404
    assert other.ask("POST", f"/runs/{run}/cancel", {}).status_code == 404
    assert other.ask("GET", "/runs").json() == {"runs": []}
    mine = other.start("clerk", "mine")["id"]
    assert other.becomes(mine, "completed")["principal"] == "other", "a key for agents alone has them think too"
    assert {view["id"] for view in web.ask("GET", "/runs").json()["runs"]} >= {run, mine}, "admins see all"
    refused = Web(place, key(place, "talker", "infer")).ask("GET", "/runs")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    assert Web(place, "sk-trivium-wrong").ask("GET", "/runs").status_code == 401


def test_the_same_idempotency_key_is_the_same_run_at_any_replica(place: Cluster, web: Web) -> None:
    body = {"input": json.dumps([[["note", {"text": "idempotent"}]], "done"])}
    begun = [web.ask("POST", "/clerk/runs", body, **{"x-idempotency": "abc"}).json()["id"] for _ in range(6)]
    assert len(set(begun)) == 1
    web.becomes(begun[0], "completed")
    assert len([line for line in notes(place) if "idempotent" in line]) == 1


def test_a_killed_replicas_runs_are_ended_by_another_one(place: Cluster, web: Web) -> None:
    turns = [[["note", {"text": "killed"}]], [["hold", {"text": "killed"}]], "survived"]
    begun = [web.start("clerk", *turns)["id"] for _ in range(8)]

    def holding() -> list[str]:
        return [run for run in begun if (seen := web.run(run)) and seen["turns"] == 2]

    eventually(holding, 30, "all runs hold", lambda found: len(found) == 8)
    # Only those of this replica: a run that another one has goes on undisturbed.
    logged = Log(place.state / "log").entries()
    sources = {step.run: step.source for step in logged if step.kind == "step" and step.run in begun}
    victim = int(sources[begun[0]].split("-")[-2])
    theirs = [run for run in begun if int(sources[run].split("-")[-2]) == victim]
    os.kill(victim, signal.SIGKILL)
    free(place, "killed")
    for run in begun:
        assert web.becomes(run, "completed")["answer"] == "survived"
    lines = [line for line in notes(place) if "killed" in line]
    assert len(lines) == len(set(lines)) == 8, "no effect twice"
    for run in theirs:
        steps = web.events(run)
        assert [step["event"] for step in steps].count("claim") == 1 and owner(steps) != victim


def test_a_run_that_waits_for_approval_survives_a_restart_of_everything(place: Cluster, web: Web) -> None:
    run = web.start("clerk", [["pay", {"text": "rent"}]], "paid")["id"]
    assert "May pay be called" in web.becomes(run, "input-required")["question"]
    place.trivium("down")
    up(place)
    assert web.becomes(run, "input-required")["operation"] == f"{run}.1.0"
    assert not [line for line in notes(place) if line.startswith("pay")]
    listed = place.trivium("agents", "list").stdout
    assert run in listed and "input-required" in listed
    assert f"{run} is working" in place.trivium("agents", "approve", run).stdout
    assert web.becomes(run, "completed")["answer"] == "paid"
    assert len([line for line in notes(place) if line.startswith("pay")]) == 1
    again = place.trivium("agents", "approve", run, check=False)
    assert again.returncode == 1 and f"{run} asks nothing now: it is completed" in again.stderr


def test_a_sub_agent_works_for_its_parent_and_is_cancelled_with_it(place: Cluster, web: Web) -> None:
    part = json.dumps([[["hold", {"text": "never"}]], "part"])
    run = web.start("clerk", [["spawn_helper", {"task": part}]], "whole")["id"]

    def child() -> Any:
        return [view for view in web.ask("GET", "/runs").json()["runs"] if view["parent"] == run]

    (found,) = eventually(child, 30, "a sub-agent")
    assert (found["agent"], found["principal"]) == ("helper", "owner")
    assert f"{run} is canceled" in place.trivium("agents", "cancel", run).stdout
    assert web.becomes(found["id"], "canceled")
    run = web.start("clerk", [["spawn_helper", {"task": json.dumps(["forty-two"])}]], "whole")["id"]
    assert web.becomes(run, "completed")["tokens"] == 27
    (result,) = [step for step in web.events(run) if step["event"] == "result"]
    assert result["body"]["content"] == "forty-two"


def test_the_command_line_runs_follows_and_tells_how_it_ended(place: Cluster, web: Web) -> None:
    said = place.trivium("agents", "run", "clerk", json.dumps([[["note", {"text": "cli"}]], "bye [b]"]), "--follow")
    assert said.stdout.splitlines()[-1] == "bye [b]" and "decision" in said.stdout
    run = place.trivium("agents", "run", "clerk", json.dumps([[["nope", {}]]] * 4)).stdout.strip()
    followed = place.trivium("agents", "follow", run, check=False)
    assert followed.returncode == 1
    assert "is failed: the model wrote calls that do not fit their tools 3 times in a row" in followed.stderr
    unknown = place.trivium("agents", "follow", "run-x", check=False)
    assert "there is no run run-x" in unknown.stderr and "Traceback" not in unknown.stderr
    as_json = place.trivium("agents", "list", "--json", "-n", "1").stdout
    assert json.loads(as_json)[0]["id"] == run


def test_steps_are_exported_and_imported_like_all_of_the_log(place: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    place.trivium("log", "export", "--out", str(out))
    kinds = [json.loads(line)["kind"] for line in out.read_text().splitlines()]
    assert kinds.count("step") > 20
    again = place.trivium("log", "import", str(out))
    assert "0 records and 0 feedback imported" in again.stdout
    assert "end" in place.trivium("log", "tail", "-n", "50").stdout


async def test_an_mcp_client_runs_an_agent_asks_a_model_and_sees_how_all_is(place: Cluster, web: Web) -> None:
    headers = {"authorization": f"Bearer {place.api_key}"}
    address = f"http://127.0.0.1:{place.settings.http_port}/mcp"
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(address, http_client=http)) as client,
    ):
        task = json.dumps([[["note", {"text": "by mcp"}]], "done by mcp"])
        ran = await client.call_tool("run_agent", {"agent": "clerk", "task": task})
        assert ran.structured_content is not None and ran.structured_content["answer"] == "done by mcp"
        assert web.run(ran.structured_content["id"]) == ran.structured_content
        asked = await client.call_tool("ask_model", {"model": "scripted", "prompt": json.dumps(["said at once"])})
        assert [block.text for block in asked.content if block.type == "text"] == ["said at once"]
        status = await client.call_tool("cluster_status", {})
        assert status.structured_content is not None
        assert status.structured_content["applications"]["agents"]["replicas"] == {"agents": {"RUNNING": 2}}
        unknown = await client.call_tool("get_run", {"run": "run-none"})
        assert unknown.is_error and "no such run" in str(unknown.content)


async def test_another_agent_meets_one_over_a2a_on_the_public_port(place: Cluster, web: Web) -> None:
    base = f"http://127.0.0.1:{place.settings.http_port}/agents/clerk"
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {place.api_key}"}, trust_env=False) as http:
        card = await A2ACardResolver(http, base).get_agent_card()
        assert card.description == "Does as told."
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=True)).create(card)
        said = Message(message_id="m1", role=Role.ROLE_USER, parts=[Part(text=json.dumps(["done by a2a"]))])
        seen = [event async for event in client.send_message(SendMessageRequest(message=said))]
    task = next(event.task for event in seen if event.HasField("task"))
    assert web.becomes(task.id, "completed")["answer"] == "done by a2a"
    assert any("done by a2a" in str(event) for event in seen)
    nobody = httpx.get(f"{base}/.well-known/agent-card.json", trust_env=False)
    assert nobody.status_code == 200, "a card is for everybody"
    assert httpx.post(f"{base}/a2a", json={}, trust_env=False).status_code == 401


def test_rewards_are_in_the_journal_and_only_an_admin_speaks_for_a_checker(place: Cluster, web: Web) -> None:
    theirs = Web(place, key(place, "rater", "agents"))
    run = theirs.start("clerk", "done", metadata={"task_template": "be-done"})["id"]
    theirs.becomes(run, "completed")
    refused = theirs.ask("POST", f"/runs/{run}/reward", {"score": 1, "source": "checker"})
    assert refused.status_code == 403 and "scope admin" in refused.json()["error"]["message"]
    assert theirs.ask("POST", f"/runs/{run}/reward", {"score": 0.5}).is_success
    assert web.ask("POST", f"/runs/{run}/reward", {"score": 1, "source": "checker"}).is_success
    first, *_, mine, checked = web.events(run)
    assert first["body"]["metadata"] == {"task_template": "be-done"}
    assert [(step["body"]["score"], step["body"]["source"]) for step in (mine, checked)] == [
        (0.5, "user"),
        (1, "checker"),
    ]


def test_a_tool_of_an_mcp_server_is_there_once_somebody_has_looked_at_it(place: Cluster, web: Web) -> None:
    def told() -> str:
        run = web.start("clerk", [["look_up", {"item": "tea"}]], "done")["id"]
        web.becomes(run, "completed")
        return next(step["body"]["content"] for step in web.events(run) if step["event"] == "result")

    assert "there is no tool called 'look_up'" in told()
    said = place.trivium("agents", "consent", "shop", "--yes").stdout
    assert "new: look_up" in said and "tools of shop may be used" in said
    eventually(told, 30, "the tool is offered", lambda content: content == "4")
    assert "new:" not in place.trivium("agents", "consent", "shop").stdout


def test_a_chat_with_an_agent_shows_its_calls_asks_for_approval_and_judges(place: Cluster, web: Web) -> None:
    task = json.dumps([[["pay", {"text": "by chat"}]], "it is paid"])
    said = subprocess.run(
        [Path(sys.executable).parent / "trivium", "chat", "--agent", "clerk"],
        input=f"{task}\ny\n/up well done\n",
        env=place.variables,
        cwd=place.state,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0 and not said.stderr, said.stderr
    for part in ('pay({"text": "by chat"})', "May pay be called", "noted by chat", "it is paid", "noted"):
        assert part in said.stdout
    run = web.ask("GET", "/runs?limit=1").json()["runs"][0]
    assert run["task"] == task and [line for line in notes(place) if "by chat" in line]
    last = web.events(run["id"])[-1]
    assert (last["event"], last["body"]) == ("reward", {"score": 1.0, "source": "user", "comment": "well done"})


@pytest.fixture(scope="module")
def apps() -> None:
    """Their libraries, in an environment of their own."""
    made = subprocess.run(["make", "-C", str(ROOT), ".venv/apps/ready"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"the libraries of the applications cannot be had here: {made.stderr[-500:]}")


@pytest.mark.usefixtures("apps")
@pytest.mark.parametrize("app", ["graph", "desk"])
def test_an_agent_of_somebody_elses_framework_works_here_and_is_a_session_in_the_log(app: str, place: Cluster) -> None:
    task = json.dumps([[["list_agents", {}]], f"done by {app}"])
    settings = place.settings
    variables = (
        place.variables | client_environment(settings) | {"MCP_URL": f"http://127.0.0.1:{settings.http_port}/mcp"}
    )
    command = [str(APPS), str(ROOT / "tests" / "control" / "apps" / f"{app}.py"), task]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"done by {app}"
    log = Log(place.state / "log")
    records = [each for each in [*log.read(), *log.entries()] if isinstance(each, Record) and each.session == app]
    asked, answered = sorted(records, key=lambda record: record.time)
    assert asked.answer and asked.answer["tool_calls"][0]["function"]["name"] == "list_agents"
    assert {tool["function"]["name"] for tool in asked.tools} >= {"run_agent", "ask_model", "rollout_status"}
    assert "Does as told." in str(answered.messages[-1]["content"]), "the tool's result came back to the model"
