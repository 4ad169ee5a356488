"""A running cluster, seen by a real Prometheus and by an OpenTelemetry collector."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import Cluster
from tests.receiver import Receiver
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PATIENCE_S = 120
"""Ray's agents get new values every 10 s, and a rate needs two of them."""
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "a rhinoceros that nobody may know of"


@dataclass(frozen=True)
class Prometheus:
    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.address}/api/v1/{path}", params=parameters, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        """What a query returns now, without what is no number."""
        found = self.ask("query", query=query)["result"]
        return [value for each in found if math.isfinite(value := float(each["value"][1]))]


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Started as `trivium status` says, but looking every second instead of every ten."""
    if shutil.which("prometheus") is None:
        pytest.skip("install Prometheus (Debian's package `prometheus`) to put the dashboard's queries to it")
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load(Path(cluster.status()["metrics"]["config"]).read_text())
    configuration["global"]["scrape_interval"] = "1s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def call(cluster: Cluster, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {cluster.api_key}"} | headers
    address = cluster.base_url.removesuffix("/v1") + path
    return httpx.post(address, json=body, headers=headers, timeout=60, trust_env=False)


def use(cluster: Cluster) -> None:
    """A little of everything: an answer, a stream, feedback, an agent's run, and somebody without a key."""
    asked = {"model": "assistant", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}
    whole = call(cluster, "/v1/chat/completions", asked, **{"x-session-id": SECRET})
    assert whole.is_success
    assert call(cluster, "/v1/chat/completions", asked | {"stream": True}).is_success
    assert call(cluster, "/v1/feedback", {"request_id": whole.headers["x-request-id"], "score": 1}).is_success
    assert call(cluster, "/agents/assistant/runs", {"input": SECRET, "limits": {"turns": 2}}).is_success
    assert call(cluster, "/v1/chat/completions", asked, authorization="Bearer sk-wrong").status_code == 401


def queries() -> list[str]:
    dashboard = json.loads((files("services") / "dashboards" / "trivium.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "1m") for query in found]


def test_every_query_of_the_dashboard_returns_data(cluster: Cluster, prometheus: Prometheus) -> None:
    used = -math.inf

    def silent() -> list[str]:
        nonlocal used
        if time.monotonic() - used > 5:
            use(cluster)
            used = time.monotonic()
        try:
            return [query for query in queries() if not prometheus.values(query)]
        except httpx.TransportError:  # it is just starting
            return ["everything"]

    eventually(silent, PATIENCE_S, "queries without an answer", lambda silent: not silent)


def test_what_prometheus_sees_adds_up(cluster: Cluster, prometheus: Prometheus) -> None:
    use(cluster)
    timed_as_often_as_counted = 'sum(ray_trivium_requests_total{status="2xx"}) - sum(ray_trivium_request_seconds_count)'
    eventually(lambda: prometheus.values(timed_as_often_as_counted), PATIENCE_S, "the difference", lambda d: d == [0])
    assert prometheus.values("min(up)") == [1]
    assert prometheus.values("sum(ray_trivium_wheel_min_feedback)") == [300]
    assert prometheus.values("max(ray_trivium_rollout_sequence)")[0] >= 0


def test_labels_say_neither_what_was_said_nor_by_whom(cluster: Cluster, prometheus: Prometheus) -> None:
    series = prometheus.ask("series", **{"match[]": '{__name__=~"ray_trivium_.*"}'})
    assert series
    ours = {name for each in series for name in each if name.islower() and not name.startswith(("__", "otel_"))}
    told = {"alias", "version", "arm", "status", "agent", "state"}
    assert told <= ours <= told | {"app", "code", "le", "tool", "effect", "instance", "job"}
    said = json.dumps(series)
    assert SECRET not in said and cluster.api_key not in said and "owner" not in said and "req-" not in said


def test_spans_reach_the_collector_and_only_ours(cluster: Cluster, receiver: Receiver) -> None:
    asked = {"model": "assistant", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}
    answer = call(cluster, "/v1/chat/completions", asked, traceparent=f"00-{TRACE}-{PARENT}-01")
    mine = eventually(
        lambda: [span for span in receiver.spans if span.trace == TRACE], PATIENCE_S, "the span of the request"
    )
    assert [(span.name, span.parent) for span in mine] == [("chat assistant", PARENT)]
    assert mine[0].attributes["gen_ai.response.id"] == answer.headers["x-request-id"]
    assert mine[0].attributes["gen_ai.usage.output_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert mine[0].attributes["server.port"] == cluster.settings.http_port
    # vLLM, MLflow and Ray read the same variables, and what they trace may hold what was said.
    assert receiver.paths == {"/v1/traces"}
    assert {span.resource["service.name"] for span in receiver.spans} == {"trivium"}
    assert SECRET.encode() not in receiver.received


def test_status_shows_the_pace_of_a_running_cluster(cluster: Cluster) -> None:
    use(cluster)
    said = cluster.trivium("status", "--watch", "--refreshes", "1").stdout
    assert "requests/s, p50" in said and "assistant@" in said and "--config.file=" in said
