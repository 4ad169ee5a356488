from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import conclude, paired, quantile
from benchmarks.contenders import flags, kind
from benchmarks.load import Seen
from benchmarks.machine import processor
from benchmarks.serving import Measurement, medians, ratio


def test_quantile_lies_between_its_neighbours() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([1, 2], 0.5) == 1.5
    assert quantile(range(101), 0.99) == 99
    assert quantile([7], 0.99) == 7


def test_a_round_that_is_slow_for_both_does_not_move_the_ratio() -> None:
    assert paired([9, 18, 90], [10, 20, 100]) == pytest.approx(0.9)
    with pytest.raises(ValueError):
        paired([1, 2], [1])


def test_last_line_is_json_with_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    conclude(runs=5, cold_s=1.23456, warm_s=None)
    said = json.loads(capsys.readouterr().out)
    assert (said["cold_s"], said["warm_s"], said["runs"]) == (1.2346, None, 5)
    assert " cores, " in said["machine"]


def test_processor_is_named_without_its_makers_decoration(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz\n")
    assert processor(str(file)) == "Intel Xeon Platinum 8481C"


def measurement(contender: str, round: int, requests_per_s: float, ttft_ms: float = 10.0) -> Measurement:
    seen = Seen(
        requests=100, failed=1, wall_s=1, requests_per_s=requests_per_s, latency_p50_ms=1, latency_p99_ms=1,
        ttft_p50_ms=ttft_ms,
    )  # fmt: skip
    return Measurement(
        contender=contender, round=round, mode="stream", concurrency=16, seen=seen, cpu_ms={"engine": float(round)}
    )


def test_ratio_pairs_measurements_of_the_same_round_in_whatever_order_they_came() -> None:
    measured = [
        measurement("ours", 0, 80, 12), measurement("bare", 0, 100, 10), measurement("bare", 1, 50, 20),
        measurement("ours", 1, 45, 22), measurement("bare", 2, 70), measurement("ours", 3, 70),
    ]  # fmt: skip
    assert ratio(measured, "ours", "bare", 16) == pytest.approx(0.85)
    assert ratio(measured, "ours", "bare", 16, ttft=True) == pytest.approx(1.15)
    assert ratio(measured, "ours", "bare", 32) is None


def test_medians_of_rounds_add_up_what_failed() -> None:
    (one,) = medians([measurement("ours", round, speed) for round, speed in enumerate((10, 30, 20))])
    assert (one.seen.requests_per_s, one.seen.failed, one.seen.requests, one.cpu_ms["engine"]) == (20, 3, 300, 1)


def test_engine_arguments_become_flags() -> None:
    given = flags({"enforce_eager": True, "prefix_caching": False, "max_loras": 4, "some_config": {"backend": "x"}})
    assert given == ["--enforce-eager", "--no-prefix-caching", "--max-loras", "4", "--some-config", '{"backend": "x"}']


@pytest.mark.parametrize(
    ("title", "what"),
    [
        ("VLLM::EngineCore", "engine"),
        ("python -m vllm.entrypoints.openai.api_server --model seed", "server"),
        ("ray::ServeReplica:assistant:Gateway:seed", "server"),
        ("ray::ServeReplica:default:LLMServer:seed", "server"),
        ("ray::ServeReplica:default:OpenAiIngress", "ingress"),
        ("/venv/bin/haproxy -f /tmp/h/haproxy.cfg", "ingress"),
        ("ray::ServeReplica:rollout:rollout", "rest"),
    ],
)
def test_processes_are_told_apart_by_what_they_are_for(title: str, what: str) -> None:
    assert kind(title) == what
