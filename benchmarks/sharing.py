"""`make bench NAME=sharing`: what training keeps of a machine that also serves, and what serving notices of it.

Serving gets bursts: for 30 % of the time, requests at 90 % of the rate that it can hold alone. Four contenders take
turns, one period each, so that a shared machine's bad minutes meet all of them: serving alone, training alone (nobody
asks), a static split (half of the cores for each, all the time), and ours (training makes way). What figures mean:
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psutil

from benchmarks import conclude, load, paired
from benchmarks.clusters import Cluster, cluster
from benchmarks.contenders import settle
from benchmarks.load import Job, Seen
from benchmarks.training import Training, endless, running
from cluster.arbiter import Sharing

PERIOD_S, BURST = 60.0, 0.3
"""One turn, and the share of it in which requests come."""
LOAD = 0.9
"""Of the rate that serving alone can hold."""
CALLERS = 16
"""By which that rate is found: as many as `benchmarks.serving` finds throughput with."""
CAPACITY_S = 15.0
AWAKE_S = 1.0
"""What was due while a training was stopped is done then."""


@dataclass(frozen=True)
class Turn:
    """One contender, one period."""

    contender: str
    round: int
    seen: Seen | None
    """Of the burst."""
    tokens: float | None
    """Trained on in the period, a second."""


@dataclass(frozen=True)
class Contender:
    """What runs in its turn."""

    asked: bool
    training: Training | None
    split: bool = False


class Stage:
    """The cluster on which contenders take turns. Trainings whose turn it is not are stopped."""

    def __init__(self, made: Cluster, period_s: float) -> None:
        self._period_s, self._made = period_s, made
        self._url, self._key = made.settings.base_url.removesuffix("/v1"), made.key()
        self._cores = sorted(os.sched_getaffinity(0))

    def capacity(self) -> float:
        """Requests a second that serving alone can hold."""
        job = Job(url=self._url, model="assistant", key=self._key, concurrency=CALLERS, seconds=CAPACITY_S)
        load.run(job.model_copy(update={"seconds": CAPACITY_S / 3, "seed": "warm"}))
        return load.run(job).requests_per_s

    def turn(self, name: str, contender: Contender, round: int, rate: float) -> Turn:
        """The burst is in the middle of the period. Serving alone has nothing to do before and after it."""
        quiet_s = (1 - BURST) / 2 * self._period_s if contender.training else 0.0
        with self._split(contender), awake(contender.training):
            began, before = time.monotonic(), contender.training.tokens() if contender.training else 0
            time.sleep(quiet_s)
            seen = self._burst(rate, f"{round}") if contender.asked else None
            time.sleep(max(0.0, began + self._period_s - time.monotonic()) if contender.training else 0.0)
            took_s = time.monotonic() - began
            tokens = (contender.training.tokens() - before) / took_s if contender.training else None
        return Turn(name, round, seen, tokens)

    def _burst(self, rate: float, seed: str) -> Seen:
        seconds = BURST * self._period_s
        return load.run(
            Job(url=self._url, model="assistant", key=self._key, rate=rate, seconds=seconds, seed=f"burst {seed}")
        )

    @contextmanager
    def _split(self, contender: Contender) -> Iterator[None]:
        if not (contender.split and contender.training):
            yield
            return
        half = max(1, len(self._cores) // 2)
        trains = contender.training.processes()
        ours = {process.pid for process in trains}
        confine([process for process in self._made.processes() if process.pid not in ours], self._cores[:half])
        confine(trains, self._cores[half:] or self._cores)
        try:
            yield
        finally:
            confine(self._made.processes(), self._cores)


def confine(processes: list[psutil.Process], cores: list[int]) -> None:
    """All their threads, and what these start from now on, to these cores."""
    for process in processes:
        with suppress(psutil.Error, OSError):
            for thread in process.threads():
                with suppress(OSError):  # it has just ended
                    os.sched_setaffinity(thread.id, cores)


@contextmanager
def awake(training: Training | None) -> Iterator[None]:
    """The training's worker runs within the block; outside of it it is stopped."""
    if training is None:
        yield
        return
    _each(training, psutil.Process.resume)
    try:
        time.sleep(AWAKE_S)
        yield
    finally:
        _each(training, psutil.Process.suspend)


def _each(training: Training, act: Callable[[psutil.Process], None]) -> None:
    for process in training.processes():
        with suppress(psutil.NoSuchProcess):
            act(process)


def row(turn: Turn) -> str:
    seen = turn.seen
    tokens = f"{turn.tokens:9.0f}" if turn.tokens is not None else " " * 9
    if seen is None:
        return f"{turn.contender:<16} {tokens}"
    times = (seen.ttft_p50_ms, seen.ttft_p99_ms, seen.inter_token_p50_ms, seen.inter_token_p99_ms)
    return (
        f"{turn.contender:<16} {tokens} {seen.requests_per_s:7.1f} "
        + " ".join(f"{value or 0:8.1f}" for value in times)
        + f" {seen.failed:>6}"
    )


def head() -> str:
    return f"{'':<16} {'tokens/s':>9} {'req/s':>7} {'TTFT50':>8} {'TTFT99':>8} {'gap50':>8} {'gap99':>8} {'failed':>6}"


def ratio(turns: list[Turn], ours: str, peer: str, figure: Callable[[Turn], float | None]) -> float:
    """Median over rounds of ours / peer."""
    mine, theirs = ([figure(turn) or 0.0 for turn in turns if turn.contender == name] for name in (ours, peer))
    return paired(mine, theirs)


def medians(turns: list[Turn]) -> Iterator[Turn]:
    """One for each contender: the median of every figure over its rounds."""
    for name in dict.fromkeys(turn.contender for turn in turns):
        of_it = [turn for turn in turns if turn.contender == name]
        tokens = [turn.tokens for turn in of_it if turn.tokens is not None]
        bursts = [turn.seen for turn in of_it if turn.seen]
        seen = None
        if bursts:
            times = ("requests_per_s", "ttft_p50_ms", "ttft_p99_ms", "inter_token_p50_ms", "inter_token_p99_ms")
            middle = {time: statistics.median(getattr(burst, time) for burst in bursts) for time in times}
            seen = bursts[0].model_copy(update={**middle, "failed": sum(burst.failed for burst in bursts)})
        yield Turn(name, 0, seen, statistics.median(tokens) if tokens else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 20 s for each: to see that it works")
    parser.add_argument("--minutes", type=float, default=10, help="of each contender, bursts and calm")
    given = parser.parse_args()
    period_s = 20.0 if given.quick else PERIOD_S
    rounds = 1 if given.quick else max(1, round(60 * given.minutes / period_s))
    turns: list[Turn] = []
    with ExitStack() as running_now:
        made = running_now.enter_context(cluster())
        print(made.up(), flush=True)
        settle(made.processes())
        stage = Stage(made, period_s)
        rate = LOAD * stage.capacity()
        print(f"bursts of {rate:.1f} requests a second, {LOAD:.0%} of what serving alone can hold", flush=True)
        ours = running_now.enter_context(running(made, "ours", endless(Sharing(), min_workers=0)))
        _each(ours, psutil.Process.suspend)
        split = running_now.enter_context(running(made, "split", endless(Sharing(pause="never"), min_workers=1)))
        _each(split, psutil.Process.suspend)
        contenders = {
            "serving alone": Contender(True, None),
            "training alone": Contender(False, ours),
            "static split": Contender(True, split, split=True),
            "ours": Contender(True, ours),
        }
        print(head(), flush=True)
        for round_ in range(rounds):
            names = list(contenders)
            first = round_ % len(names)  # nobody is always the first one after the others
            for name in names[first:] + names[:first]:
                turns.append(stage.turn(name, contenders[name], round_, rate))
                print(row(turns[-1]), flush=True)
                for failure in turns[-1].seen.failures if turns[-1].seen else ():
                    print(f"    failed: {failure}", flush=True)
        for name in ("ours", "split"):
            print(f"\n{name}: {(made.settings.state / name / 'log').read_text()[-600:]}", flush=True)
    report(turns)


def report(turns: list[Turn]) -> None:
    """Medians over rounds, and the line of JSON."""
    print(f"\nMedians of the periods; of the bursts, times in ms.\n{head()}")
    for turn in medians(turns):
        print(row(turn))

    def ttft(turn: Turn) -> float | None:
        return turn.seen.ttft_p99_ms if turn.seen else None

    def tokens(turn: Turn) -> float | None:
        return turn.tokens

    conclude(
        runs=len({turn.round for turn in turns}),
        train_tokens_kept=ratio(turns, "ours", "training alone", tokens),
        static_tokens_kept=ratio(turns, "static split", "training alone", tokens),
        ttft_p99_vs_alone=ratio(turns, "ours", "serving alone", ttft),
        static_ttft_p99_vs_alone=ratio(turns, "static split", "serving alone", ttft),
    )


if __name__ == "__main__":
    main()
