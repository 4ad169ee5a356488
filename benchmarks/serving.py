"""`make bench NAME=serving`: what the whole path costs, beside bare vLLM and beside Ray Serve LLM's default ingress.

Contenders are started and ended in turn, every round all of them, because one that idles takes processor time from the
others: two engines and two Rays share these cores. What the figures mean: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import conclude, load, paired
from benchmarks.contenders import CANDIDATE_SHARE, CONTENDERS, KINDS, Target, by_kind, settle
from benchmarks.load import Job, Seen
from cluster.settings import Strict

CHOSEN = ["bare", "bare as it is", "default ingress", "ours", "ours, fake engine"]
WAVES = {1: 40, 16: 16, 32: 10}
"""Requests of each caller in one measurement, by how many callers there are: about 5 s each."""
SPENDERS = (*KINDS, "rest", "client", "elsewhere")
SLOW = {"default ingress": 4}
"""It gets so many times fewer."""


class Measurement(Strict):
    """One contender, one round, one way to ask."""

    contender: str
    round: int
    streaming: bool
    concurrency: int
    seen: Seen
    cpu_ms: dict[str, float]
    """Processor time of one request, by kind of process; `elsewhere` is what others used meanwhile, on the machine."""


@dataclass(frozen=True)
class Plan:
    rounds: int
    contenders: list[str]
    waves: dict[int, int]


def measure(name: str, target: Target, round: int, plan: Plan) -> Iterator[Measurement]:
    """Streaming and unary, for each number of callers, after a warm-up of the same kind."""
    settle(target.processes())
    watch = by_kind(target.processes())
    for streaming in (True, False):
        for concurrency, waves in plan.waves.items():
            mode = "stream" if streaming else "whole"
            job = Job(
                url=target.url,
                model=target.model,
                key=target.key,
                streaming=streaming,
                concurrency=concurrency,
                requests=concurrency * max(2, waves // SLOW.get(name, 1)),
                seed=f"{round} {mode} {concurrency}",
                candidate=target.candidate,
                candidate_share=CANDIDATE_SHARE if target.candidate else 0,
                watch=watch,
            )
            load.run(job.model_copy(update={"requests": 2 * concurrency, "seed": f"warm {job.seed}"}))
            seen = load.run(job)
            cpu_ms = {kind: 1000 * seconds / seen.requests for kind, seconds in seen.cpu_s.items()}
            yield Measurement(
                contender=name, round=round, streaming=streaming, concurrency=concurrency, seen=seen, cpu_ms=cpu_ms
            )


def row(measured: Measurement) -> str:
    seen, cpu = measured.seen, measured.cpu_ms

    def milliseconds(value: float | None) -> str:
        return f"{value:7.1f}" if value is not None else " " * 7

    times = (seen.ttft_p50_ms, seen.ttft_p99_ms, seen.inter_token_p50_ms, seen.inter_token_p99_ms)
    return (
        f"{measured.contender:<18} {'stream' if measured.streaming else 'whole':<6} {measured.concurrency:>2} "
        f"{seen.requests_per_s:8.1f} {' '.join(map(milliseconds, times))} {seen.latency_p50_ms:8.1f} {seen.failed:>6}  "
        + " ".join(f"{cpu.get(kind, 0):6.1f}" for kind in SPENDERS)
    )


def head() -> str:
    return (
        f"{'':<18} {'mode':<6} {'c':>2} {'req/s':>8} {'TTFT50':>7} {'TTFT99':>7} {'gap50':>7} {'gap99':>7} "
        f"{'whole50':>8} {'failed':>6}  " + " ".join(f"{kind[:6]:>6}" for kind in SPENDERS)
    )


def of_rounds(measured: list[Measurement], contender: str, streaming: bool, concurrency: int) -> dict[int, Measurement]:
    """One way to ask one contender, by round."""
    asked = (contender, streaming, concurrency)
    return {m.round: m for m in measured if (m.contender, m.streaming, m.concurrency) == asked}


def ratio(
    measured: list[Measurement], ours: str, peer: str, concurrency: int, streaming: bool = True, ttft: bool = False
) -> float | None:
    """Median over rounds of ours / peer, of throughput or of TTFT p50. None where one of them was not measured."""
    mine, theirs = (of_rounds(measured, contender, streaming, concurrency) for contender in (ours, peer))
    both = sorted(mine.keys() & theirs.keys())
    if not both:
        return None

    def figure(one: Measurement) -> float:
        return one.seen.ttft_p50_ms or 0.0 if ttft else one.seen.requests_per_s

    return paired([figure(mine[round]) for round in both], [figure(theirs[round]) for round in both])


def medians(measured: list[Measurement]) -> Iterator[Measurement]:
    """One measurement for each way to ask: the median of every figure."""
    ways = dict.fromkeys((m.contender, m.streaming, m.concurrency) for m in measured)
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
    waves = {callers: max(3, waves // 4) for callers, waves in WAVES.items()} if given.quick else WAVES
    plan = Plan(1 if given.quick else given.rounds, given.contenders, waves)

    lines = given.results.read_text().splitlines() if given.results and given.results.exists() else []
    measured = [Measurement.model_validate_json(line) for line in lines]
    first = 1 + max((m.round for m in measured), default=-1)
    print(head(), flush=True)
    for round in range(first, first + plan.rounds):
        turn = round % len(plan.contenders)  # nobody is always the first one after the others
        for name in plan.contenders[turn:] + plan.contenders[:turn]:
            began = time.monotonic()
            with CONTENDERS[name]() as target:
                print(f"round {round}: {name} answers after {time.monotonic() - began:.0f} s", flush=True)
                for one in measure(name, target, round, plan):
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
        for streaming in (True, False):
            for concurrency in WAVES:
                if (found := ratio(measured, "ours", peer, concurrency, streaming)) is not None:
                    print(f"  {peer:<34} {'stream' if streaming else 'whole':<6} c{concurrency:<3} {found:6.3f}")
    conclude(
        runs=len({m.round for m in measured}),
        throughput_vs_bare_c16=ratio(measured, "ours", "bare", 16),
        throughput_vs_bare_c32=ratio(measured, "ours", "bare", 32),
        ttft_p50_vs_bare_c1=ratio(measured, "ours", "bare", 1, ttft=True),
        throughput_vs_default_c16=ratio(measured, "ours", "default ingress", 16),
    )


if __name__ == "__main__":
    main()
