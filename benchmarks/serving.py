"""`make bench NAME=serving`: what the whole path costs, beside bare vLLM and beside Ray Serve LLM's default ingress.

All contenders are there all the time, and all but one are stopped (SIGSTOP): one that idles would take processor time
from the others. So they take turns within seconds, and a shared machine's bad minutes meet all of them. What figures
mean: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

import psutil

from benchmarks import conclude, load, paired
from benchmarks.contenders import CANDIDATE_SHARE, CONTENDERS, KINDS, Target, by_kind, settle
from benchmarks.load import Job, Seen
from cluster.settings import Strict

CHOSEN = ["bare", "bare as it is", "default ingress", "ours", "ours, fake engine"]
WAVES = {1: 40, 16: 16, 32: 10}
"""Requests of each caller in one measurement, by how many callers there are: about 5 s each."""
SPENDERS = (*KINDS, "rest", "client", "elsewhere")
AWAKE_S = 1.0
"""What was due while a contender was stopped is done then."""
SLOW = {"default ingress": 4}
"""It gets so many times fewer."""

Mode = Literal["stream", "whole", "base"]
"""Streams or answers in one piece, a share of both with an adapter; or streams of the base alone."""


class Measurement(Strict):
    """One contender, one round, one way to ask."""

    contender: str
    round: int
    mode: Mode
    concurrency: int
    seen: Seen
    cpu_ms: dict[str, float]
    """Processor time of one request, by kind of process; `elsewhere` is what others used meanwhile, on the machine."""


@contextmanager
def awake(target: Target) -> Iterator[None]:
    """The target's processes run within the block; outside of it they are stopped."""
    _signal(target, signal.SIGCONT)
    try:
        time.sleep(AWAKE_S)
        yield
    finally:
        _signal(target, signal.SIGSTOP)


def _signal(target: Target, number: signal.Signals) -> None:
    for process in target.processes():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def ways(targets: dict[str, Target]) -> Iterator[tuple[Mode, int, list[str]]]:
    """What is measured in a round: how is asked, by how many callers at once, and whom it can be asked."""
    for mode in get_args(Mode):
        for concurrency in WAVES:
            # Without a base to name, all streams are of the base alone.
            yield mode, concurrency, [name for name, target in targets.items() if target.base or mode != "base"]


def measure(name: str, target: Target, round: int, mode: Mode, concurrency: int, waves: int) -> Measurement:
    """One way to ask one contender, after a warm-up of the same kind."""
    candidate = target.candidate if mode != "base" else None
    job = Job(
        url=target.url,
        model=target.base if mode == "base" else target.model,
        key=target.key,
        streaming=mode != "whole",
        concurrency=concurrency,
        requests=concurrency * max(2, waves // SLOW.get(name, 1)),
        seed=f"{round} {mode} {concurrency}",
        candidate=candidate,
        candidate_share=CANDIDATE_SHARE if candidate else 0,
        watch=by_kind(target.processes()),
    )
    load.run(job.model_copy(update={"requests": 2 * concurrency, "seed": f"warm {job.seed}"}))
    seen = load.run(job)
    cpu_ms = {kind: 1000 * seconds / seen.requests for kind, seconds in seen.cpu_s.items()}
    return Measurement(contender=name, round=round, mode=mode, concurrency=concurrency, seen=seen, cpu_ms=cpu_ms)


def row(measured: Measurement) -> str:
    seen, cpu = measured.seen, measured.cpu_ms

    def milliseconds(value: float | None) -> str:
        return f"{value:7.1f}" if value is not None else " " * 7

    times = (seen.ttft_p50_ms, seen.ttft_p99_ms, seen.inter_token_p50_ms, seen.inter_token_p99_ms)
    return (
        f"{measured.contender:<18} {measured.mode:<6} {measured.concurrency:>2} "
        f"{seen.requests_per_s:8.1f} {' '.join(map(milliseconds, times))} {seen.latency_p50_ms:8.1f} {seen.failed:>6}  "
        + " ".join(f"{cpu.get(kind, 0):6.1f}" for kind in SPENDERS)
    )


def head() -> str:
    return (
        f"{'':<18} {'mode':<6} {'c':>2} {'req/s':>8} {'TTFT50':>7} {'TTFT99':>7} {'gap50':>7} {'gap99':>7} "
        f"{'whole50':>8} {'failed':>6}  " + " ".join(f"{kind[:6]:>6}" for kind in SPENDERS)
    )


def of_rounds(measured: list[Measurement], contender: str, mode: Mode, concurrency: int) -> dict[int, Measurement]:
    """One way to ask one contender, by round."""
    asked = (contender, mode, concurrency)
    return {m.round: m for m in measured if (m.contender, m.mode, m.concurrency) == asked}


def ratio(
    measured: list[Measurement], ours: str, peer: str, concurrency: int, mode: Mode = "stream", ttft: bool = False
) -> float | None:
    """Median over rounds of ours / peer, of throughput or of TTFT p50. None where one of them was not measured."""
    mine, theirs = (of_rounds(measured, contender, mode, concurrency) for contender in (ours, peer))
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return None

    def figure(one: Measurement) -> float:
        return one.seen.ttft_p50_ms or 0.0 if ttft else one.seen.requests_per_s

    return paired([figure(mine[round]) for round in both], [figure(theirs[round]) for round in both])


def medians(measured: list[Measurement]) -> Iterator[Measurement]:
    """One measurement for each way to ask: the median of every figure."""
    ways = dict.fromkeys((m.contender, m.mode, m.concurrency) for m in measured)
    for way in ways:
        rounds = list(of_rounds(measured, *way).values())
        figures = [one.seen.model_dump() for one in rounds]
        middle = {
            name: statistics.median(figure[name] for figure in figures)
            for name, value in figures[0].items()
            if isinstance(value, float)
        }
        counted = {name: sum(figure[name] for figure in figures) for name in ("requests", "failed")}
        kinds = {kind for one in rounds for kind in one.cpu_ms}
        cpu = {kind: statistics.median(one.cpu_ms.get(kind, 0) for one in rounds) for kind in kinds}
        seen = rounds[0].seen.model_copy(update={**middle, **counted})
        yield rounds[0].model_copy(update={"seen": seen, "cpu_ms": cpu})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, fewer requests: to see that it works")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CHOSEN)
    parser.add_argument("--results", type=Path, help="keep every measurement in FILE, and count those it has already")
    given = parser.parse_args()
    rounds, waves = (1, {each: max(3, n // 4) for each, n in WAVES.items()}) if given.quick else (given.rounds, WAVES)

    lines = given.results.read_text().splitlines() if given.results and given.results.exists() else []
    measured = [Measurement.model_validate_json(line) for line in lines]
    first = 1 + max((m.round for m in measured), default=-1)
    with ExitStack() as running:
        targets: dict[str, Target] = {}
        for name in given.contenders:
            began = time.monotonic()
            targets[name] = target = running.enter_context(CONTENDERS[name]())
            running.callback(_signal, target, signal.SIGCONT)  # before it is ended
            print(f"{name} answers after {time.monotonic() - began:.0f} s", flush=True)
            settle(target.processes())
            _signal(target, signal.SIGSTOP)
        print(head(), flush=True)
        for round in range(first, first + rounds):
            for mode, concurrency, names in ways(targets):
                turn = round % len(names)  # nobody is always the first one after the others
                for name in names[turn:] + names[:turn]:
                    with awake(targets[name]):
                        one = measure(name, targets[name], round, mode, concurrency, waves[concurrency])
                    measured.append(one)
                    print(row(one), flush=True)
                    for failure in one.seen.failures:
                        print(f"    failed: {failure}", flush=True)
                    if given.results:
                        with given.results.open("a") as file:
                            file.write(one.model_dump_json() + "\n")
    report(measured)


def report(measured: list[Measurement]) -> None:
    """Medians over rounds, the ratios, and the line of JSON."""
    print(f"\nMedians. Times in ms; the last columns are processor time of one request, ms.\n{head()}")
    for one in medians(measured):
        print(row(one))
    print("\nours / peer, throughput, median of paired ratios")
    for peer in dict.fromkeys(m.contender for m in measured if not m.contender.startswith("ours")):
        for mode in get_args(Mode):
            for concurrency in WAVES:
                if (found := ratio(measured, "ours", peer, concurrency, mode)) is not None:
                    print(f"  {peer:<34} {mode:<6} c{concurrency:<3} {found:6.3f}")
    conclude(
        runs=len({m.round for m in measured}),
        throughput_vs_bare_c16=ratio(measured, "ours", "bare", 16),
        throughput_vs_bare_c32=ratio(measured, "ours", "bare", 32),
        ttft_p50_vs_bare_c1=ratio(measured, "ours", "bare", 1, ttft=True),
        base_throughput_vs_bare_c16=ratio(measured, "ours", "bare", 16, "base"),
        base_throughput_vs_bare_c32=ratio(measured, "ours", "bare", 32, "base"),
        base_ttft_p50_vs_bare_c1=ratio(measured, "ours", "bare", 1, "base", ttft=True),
        throughput_vs_default_c16=ratio(measured, "ours", "default ingress", 16),
    )


if __name__ == "__main__":
    main()
