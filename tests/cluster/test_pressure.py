from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import pressure
from cluster.environment import folder
from cluster.pressure import Gauge, Load, Node, Turn
from cluster.settings import Settings
from tests.waiting import eventually

REPLICA = """
import sys
from pathlib import Path
from cluster.pressure import Gauge
gauge = Gauge(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    number = gauge.asked()
print("asked", flush=True)
for line in sys.stdin:
    match line.strip():
        case "first": gauge.first_token(number)
        case "answered": gauge.answered(number)
        case "beat": gauge.beat()
    print(line, end="", flush=True)
"""


class Replica:
    """A process that answers as many requests at once as it was told to, until it hears more."""

    def __init__(self, path: Path, requests: int) -> None:
        command = [sys.executable, "-c", REPLICA, str(path), str(requests)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._heard()

    def tell(self, word: str) -> None:
        assert self.process.stdin
        print(word, file=self.process.stdin, flush=True)
        self._heard()

    def _heard(self) -> None:
        assert self.process.stdout and self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pressure"


@pytest.fixture
def replica(path: Path) -> Iterator[Callable[[int], Replica]]:
    started: list[Replica] = []

    def start(requests: int) -> Replica:
        started.append(Replica(path, requests))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_load_of_all_replicas_is_seen_from_another_process(path, replica) -> None:
    node = Node(path)
    assert node.load() == Load()
    first, second = replica(1), replica(3)
    seen = Node(path).load()
    assert (seen.in_flight, seen.waiting, seen.quiet_s, seen.ttft_s) == (4, 4, 0, None)
    assert 0 < seen.oldest_wait_s < 60
    first.tell("first")
    seen = Node(path).load()
    assert (seen.in_flight, seen.waiting) == (4, 3)
    assert seen.ttft_s and 0 < seen.ttft_s < 60 and seen.usual_ttft_s == seen.ttft_s
    first.tell("answered")
    second.tell("answered")
    assert Node(path).load().in_flight == 2


def test_serving_is_quiet_from_the_end_of_its_last_answer(path) -> None:
    gauge, node = Gauge(path), Node(path)
    assert node.load().quiet_s == float("inf"), "nobody has asked yet"
    number = gauge.asked()
    gauge.first_token(number)
    assert node.load().quiet_s == 0
    gauge.answered(number)
    ended = time.monotonic()
    quiet_s = node.load().quiet_s
    assert 0 < quiet_s <= time.monotonic() - ended + 0.1
    assert node.load().quiet_s > quiet_s


def test_the_oldest_wait_is_that_of_the_oldest_without_a_token(path) -> None:
    gauge, node = Gauge(path), Node(path)
    old, young = gauge.asked(), gauge.asked()
    before = eventually(lambda: node.load().oldest_wait_s, 10, "it waits", lambda waited_s: waited_s >= 0.01)
    gauge.first_token(old)
    assert gauge.asked() and node.load().oldest_wait_s >= 0.01, "the next one came with it"
    gauge.answered(young)
    assert node.load().oldest_wait_s < before and node.load().waiting == 1


def test_answers_that_end_without_a_token_wait_no_more(path) -> None:
    gauge = Gauge(path)
    gauge.answered(gauge.asked())
    seen = Node(path).load()
    assert (seen.in_flight, seen.waiting, seen.oldest_wait_s < 1e-3, seen.ttft_s) == (0, 0, True, None)


def test_ttft_of_late_rises_above_the_usual_and_falls_again(path, monkeypatch) -> None:
    gauge, node, now = Gauge(path), Node(path), time.monotonic()
    clock = [now]
    monkeypatch.setattr(pressure.time, "monotonic", lambda: clock[0])

    def answer(ttft_s: float, times: int) -> float:
        for _ in range(times):
            number = gauge.asked()
            clock[0] += ttft_s
            gauge.first_token(number)
            gauge.answered(number)
        seen = node.load()
        return seen.ttft_s / seen.usual_ttft_s

    clock[0] += 2  # it looks for the file once a second
    assert answer(0.1, 20) == pytest.approx(1)
    assert answer(0.4, 40) > 3
    assert answer(0.1, 60) == pytest.approx(1, abs=0.2)


def test_what_a_dead_replica_said_counts_no_more_and_its_slot_is_taken_over(path, replica) -> None:
    dead, alive = replica(5), replica(1)
    assert Node(path).load().in_flight == 6
    dead.end()
    assert Node(path).load().in_flight == 1
    size = path.stat().st_size
    again = replica(2)
    assert Node(path).load().in_flight == 3
    assert path.stat().st_size == size
    counts = pressure.Board(path).counts
    assert {counts[0], counts[pressure.WORDS]} == {again.process.pid, alive.process.pid}, "the first two slots"


def test_what_a_stopped_replica_said_counts_until_it_has_been_silent_for_long(path, replica, monkeypatch) -> None:
    stopped, node = replica(5), Node(path)
    stopped.process.send_signal(signal.SIGSTOP)
    assert node.load().in_flight == 5
    monkeypatch.setattr(pressure, "SILENT_S", 0.05)
    eventually(lambda: node.load().in_flight == 0, 10, "a stopped replica is not waited for")
    stopped.process.send_signal(signal.SIGCONT)
    monkeypatch.setattr(pressure, "SILENT_S", 10)
    stopped.tell("beat")
    assert node.load().in_flight == 5


def test_replica_that_leaves_gives_its_slot_back(path) -> None:
    first, second = Gauge(path), Gauge(path)
    second.asked()
    first.close()
    third = Gauge(path)
    third.asked()
    assert Node(path).load().in_flight == 2
    assert pressure.Board(path).counts[2 * pressure.WORDS] == 0, "no third slot"


def test_slots_that_all_belong_to_the_living_are_not_taken(path) -> None:
    gauges = [Gauge(path) for _ in range(pressure.REPLICAS)]
    with pytest.raises(RuntimeError, match="all 128 places"):
        Gauge(path)
    gauges[77].close()
    Gauge(path).asked()
    assert Node(path).load().in_flight == 1


def test_status_sees_what_trainers_do(path) -> None:
    turn, node = Turn(path), Node(path)
    turn.trained(800)
    turn.pause()
    seen = node.trainers()[0]
    assert (seen.process, seen.paused, seen.pauses, seen.tokens) == (os.getpid(), True, 1, 800)
    turn.resume()
    seen = node.trainers()[0]
    assert not seen.paused and seen.paused_s == turn.paused_s > 0
    assert node.trainers()[0].paused_s == seen.paused_s, "it stands still while the trainer works"
    turn.close()
    assert node.trainers() == []


def test_file_is_for_its_user_alone_and_no_link_is_followed(path, tmp_path) -> None:
    Gauge(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = Settings(state=tmp_path)
    assert pressure.path(settings).parent == folder(settings)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError):
        Gauge(link)


def test_counting_and_asking_cost_next_to_nothing(path) -> None:
    gauge, node = Gauge(path), Node(path)
    began = time.process_time()
    for _ in range(2000):
        number = gauge.asked()
        gauge.first_token(number)
        gauge.answered(number)
        node.load()
    assert (time.process_time() - began) / 2000 < 200e-6, "12 µs on a quiet machine"
