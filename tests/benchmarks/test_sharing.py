from __future__ import annotations

import json
import os
import threading

import psutil
import pytest

from benchmarks.load import Seen
from benchmarks.sharing import Turn, confine, medians, report


def turn(contender: str, round: int, tokens: float | None, ttft_ms: float | None) -> Turn:
    common = {"requests": 10, "failed": 1, "wall_s": 1.0, "requests_per_s": 9.0, "latency_p50_ms": 50}
    times = {"ttft_p50_ms": 10, "ttft_p99_ms": ttft_ms, "inter_token_p50_ms": 1, "inter_token_p99_ms": 2}
    return Turn(contender, round, Seen(**common, latency_p99_ms=90, **times) if ttft_ms else None, tokens)


ROUNDS = [
    turn("serving alone", 0, None, 100), turn("training alone", 0, 1000, None),
    turn("static split", 0, 500, 150), turn("ours", 0, 700, 110),
    # a bad minute for everybody
    turn("serving alone", 1, None, 200), turn("training alone", 1, 500, None),
    turn("static split", 1, 300, 300), turn("ours", 1, 300, 240),
    turn("serving alone", 2, None, 100), turn("training alone", 2, 1000, None),
    turn("static split", 2, 550, 160), turn("ours", 2, 720, 130),
]  # fmt: skip


def test_last_line_has_what_training_keeps_and_what_serving_notices(capsys: pytest.CaptureFixture[str]) -> None:
    report(ROUNDS)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["train_tokens_kept"], said["static_tokens_kept"]) == (0.7, 0.55)
    assert (said["ttft_p99_vs_alone"], said["static_ttft_p99_vs_alone"]) == (1.2, 1.5)
    assert said["runs"] == 3 and said["machine"]


def test_table_has_one_line_for_each_contender_with_all_failures() -> None:
    found = {each.contender: each for each in medians(ROUNDS)}
    assert (found["ours"].tokens, found["ours"].seen.ttft_p99_ms, found["ours"].seen.failed) == (700, 130, 3)
    assert (found["serving alone"].tokens, found["training alone"].seen) == (None, None)


def test_all_threads_of_a_process_are_confined() -> None:
    cores, over = sorted(os.sched_getaffinity(0)), threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        confine([psutil.Process()], cores[:1])
        assert {frozenset(os.sched_getaffinity(task.id)) for task in psutil.Process().threads()} == {
            frozenset(cores[:1])
        }
    finally:
        confine([psutil.Process()], cores)
        over.set()
        thread.join()
