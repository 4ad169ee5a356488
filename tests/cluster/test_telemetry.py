"""What is told is passed on once, cheaply, under names that Prometheus' conventions ask for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cluster import telemetry
from cluster.decisions import Alias, Canary, Rollout
from cluster.log.store import LogStats
from cluster.records import Record
from cluster.telemetry import METRICS, Fact, Feed

STREAMED = Record(
    request_id="req-1", time=1.0, principal="owner", session="mine", endpoint="/v1/chat/completions",
    alias="assistant", version="assistant@3", arm="champion", prompt_tokens=7, completion_tokens=11, streamed=True,
    ttft_s=0.1, latency_s=0.6,
)  # fmt: skip


class Seen:
    """Where facts are passed on to: they stay here."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[str, ...], float]] = []

    def tell(self, fact: Fact) -> None:
        self.told.append((fact.metric.name, fact.labels, fact.value))

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        return {labels: value for metric, labels, value in self.told if metric == name}


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def feed(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    """What this process tells goes to `seen`, when the test says so."""
    feed = Feed(lambda: (seen, None))
    feed.open()
    monkeypatch.setattr(telemetry, "_feed", feed)
    yield feed


def test_a_streamed_answer_is_counted_and_timed(feed: Feed, seen: Seen) -> None:
    telemetry.answered(STREAMED)
    feed.flush()
    who = ("assistant", "assistant@3", "champion")
    assert sorted(seen.told) == sorted(
        [
            ("trivium_requests_total", (*who, "2xx"), 1),
            ("trivium_prompt_tokens_total", who, 7),
            ("trivium_completion_tokens_total", who, 11),
            ("trivium_request_seconds", who, 0.6),
            ("trivium_time_to_first_token_seconds", who, 0.1),
            ("trivium_inter_token_seconds", who, pytest.approx(0.05)),
        ]
    )


@pytest.mark.parametrize(
    ("change", "outcome"),
    [({"status": 503}, "5xx"), ({"status": 400}, "4xx"), ({"disconnected": True}, "disconnected")],
)
def test_an_answer_that_nobody_got_whole_is_counted_but_not_timed(
    change: dict[str, object], outcome: str, feed: Feed, seen: Seen
) -> None:
    telemetry.answered(STREAMED.model_copy(update={**change, "prompt_tokens": None, "completion_tokens": None}))
    feed.flush()
    assert [(name, labels[-1]) for name, labels, _ in seen.told] == [("trivium_requests_total", outcome)]


def test_counts_are_passed_on_as_one_sum(feed: Feed, seen: Seen) -> None:
    for _ in range(100):
        telemetry.answered(STREAMED)
    feed.flush()
    feed.flush()
    names = [name for name, _, _ in seen.told]
    assert names.count("trivium_requests_total") == 1 and names.count("trivium_request_seconds") == 100
    assert list(seen.of("trivium_prompt_tokens_total").values()) == [700]


def test_requests_in_flight_are_those_that_arrived_and_have_not_left(feed: Feed, seen: Seen) -> None:
    for _ in range(3):
        telemetry.arrived(None, "seed", "direct")
    telemetry.left(None, "seed", "direct")
    feed.tell_gauges()
    assert seen.of("trivium_requests_in_flight") == {("", "seed", "direct"): 2}


def test_log_wheel_and_adapters_are_gauges_that_are_told_again_and_again(feed: Feed, seen: Seen) -> None:
    telemetry.log(LogStats(5, 2, 1, 4, 3, 900, 1, 0))
    telemetry.wheel("assistant", on=True, fresh=12, wanted=300, score=0.75, running=False)
    telemetry.adapters(2)
    feed.tell_gauges()
    first = list(seen.told)
    feed.tell_gauges()
    assert seen.told == first + first
    assert seen.of("trivium_log_lag_entries") == {(): 3} and seen.of("trivium_log_lag_bytes") == {(): 900}
    assert seen.of("trivium_log_table_rows") == {(): 4} and seen.of("trivium_adapters") == {(): 2}
    assert seen.of("trivium_wheel_on") == {("assistant",): 1}
    assert seen.of("trivium_wheel_live_score_ratio") == {("assistant",): 0.75}
    assert seen.of("trivium_wheel_cycle_running") == {("assistant",): 0}


def test_agents_runs_and_what_the_policy_said_are_told(feed: Feed, seen: Seen) -> None:
    telemetry.runs(working=2, waiting=1)
    for effect in ("permit", "permit", "deny"):
        telemetry.call_decided("clerk", "pay", effect)
    telemetry.call_failed("clerk", "pay")
    telemetry.run_ended("clerk", "completed")
    feed.flush()
    feed.tell_gauges()
    assert seen.of("trivium_agent_runs") == {("working",): 2, ("input-required",): 1}
    assert seen.of("trivium_tool_calls_total") == {("clerk", "pay", "permit"): 2, ("clerk", "pay", "deny"): 1}
    assert seen.of("trivium_tool_failures_total") == {("clerk", "pay"): 1}
    assert seen.of("trivium_agent_runs_ended_total") == {("clerk", "completed"): 1}


def test_a_wheel_without_a_score_tells_none(feed: Feed, seen: Seen) -> None:
    telemetry.wheel("assistant", on=False, fresh=0, wanted=300, score=0.5, running=False)
    telemetry.wheel("assistant", on=False, fresh=0, wanted=300, score=None, running=False)
    feed.tell_gauges()
    assert seen.of("trivium_wheel_live_score_ratio") == {}


def test_what_the_decision_log_comes_to_is_told(feed: Feed, seen: Seen) -> None:
    telemetry.rollout(Rollout(1, {"assistant": Alias("assistant", "seed", "assistant@0", staged="assistant@7")}))
    feed.tell_gauges()
    assert seen.of("trivium_rollout_champion_number") == {("assistant",): 0}
    assert seen.of("trivium_rollout_staged_number") == {("assistant",): 7}
    assert seen.of("trivium_rollout_canary_share_ratio") == {("assistant",): 0}
    telemetry.rollout(Rollout(2, {"assistant": Alias("assistant", "seed", "assistant@7", ("assistant@0",))}))
    seen.told.clear()
    feed.tell_gauges()
    assert seen.of("trivium_rollout_champion_number") == {("assistant",): 7}
    assert seen.of("trivium_rollout_staged_number") == {}
    assert seen.of("trivium_rollout_sequence") == {(): 2}


def test_a_canarys_share_is_told(feed: Feed, seen: Seen) -> None:
    canary = Canary(0.1, since=1.0, salt="a")
    alias = Alias("assistant", "seed", "assistant@3", staged="assistant@4", canary=canary, canaries=1)
    telemetry.rollout(Rollout(5, {"assistant": alias}))
    feed.tell_gauges()
    assert seen.of("trivium_rollout_canary_share_ratio") == {("assistant",): 0.1}


def test_telling_costs_the_teller_little_and_cannot_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[None, None]:
        raise RuntimeError("no such metric")

    feed = Feed(broken)
    feed.open()
    monkeypatch.setattr(telemetry, "_feed", feed)
    spent = []
    for _ in range(5):
        begin = time.thread_time()
        for _ in range(2000):
            telemetry.arrived("assistant", "assistant@3", "champion")
            telemetry.answered(STREAMED, b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            telemetry.left("assistant", "assistant@3", "champion")
        spent.append((time.thread_time() - begin) / 2000)
        feed.flush()
    assert min(spent) < 20e-6


def test_names_follow_prometheus_and_labels_are_few() -> None:
    suffixes = {"count": r"_total", "time": r"_seconds", "gauge": r"(?<!_total)(?<!_seconds)"}
    for metric in METRICS:
        assert re.fullmatch(r"trivium_[a-z_]+?" + suffixes[metric.kind], metric.name), metric.name
        few = {"alias", "version", "arm", "status", "code", "agent", "tool", "effect", "state"}
        assert set(metric.labels) <= few
        assert list(metric.bounds_s) == sorted(metric.bounds_s) and bool(metric.bounds_s) == (metric.kind == "time")
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_without_ray_and_an_endpoint_nothing_is_collected_or_imported() -> None:
    program = (
        "import json, os, sys, threading\n"
        "for name in [name for name in os.environ if name.startswith('OTEL_')]: del os.environ[name]\n"
        "from cluster import telemetry\nfrom cluster.records import Record\n"
        f"telemetry.answered(Record.model_validate_json({STREAMED.model_dump_json()!r}))\n"
        "telemetry.synced(0.001, 1)\ntelemetry.adapters(1)\ntelemetry.flush()\n"
        "print(json.dumps([[t.name for t in threading.enumerate()], sorted(sys.modules)]))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    threads, modules = json.loads(said)
    assert threads == ["MainThread"]
    assert not {"ray", "opentelemetry", "requests"} & set(modules)
