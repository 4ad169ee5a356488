"""`make bench NAME=curate`: what a row costs from the log to a dataset, beside the same steps in `datasets` and polars.

Each contender is a process of its own, with all that it starts, and is measured from the moment at which its libraries
are imported and its Ray is up, with workers, as `collect` leaves them. A row's cost is processor time of all its
processes together, so that one who leaves a core idle is not punished for it. All must choose the same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

from benchmarks import conclude, paired, rows
from benchmarks.curators import CONTENDERS
from pipelines.artifacts import Snapshot

LOOK_EVERY_S = 1.0
"""At the memory of all processes; a look takes some milliseconds."""


@dataclass(frozen=True)
class Cost:
    """What one contender took in one round."""

    seconds: float
    cpu_s: float
    """Processor time of all its processes."""
    peak_gib: float
    """Most memory of all its processes at a time; what they share is counted once."""
    kept: int
    digest: str
    """Over the ids of the rows that it kept."""


class Processes:
    """A process and all that it started."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self.peak_bytes = 0

    def cpu_s(self) -> float:
        """Processor time so far; of those that are over, what their parents were told."""
        return sum(sum(process.cpu_times()[:4]) for process in self._all())

    def watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        total = 0
        for process in self._all():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        self.peak_bytes = max(self.peak_bytes, total)

    def stop(self) -> None:
        self._over.set()

    def _all(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


def measure(name: str, snapshot: Snapshot, cores: int) -> Cost:
    """One contender over the snapshot, into a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="trivium-curate-") as folder:
        command = [sys.executable, "-m", "benchmarks.curators", name, str(snapshot.path), str(snapshot.rows), folder]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([*command, str(cores)], text=True, **pipes) as process:  # type: ignore[call-overload]
            processes = Processes(process.pid)
            _expect(process, "ready")
            watcher = threading.Thread(target=processes.watch)
            watcher.start()
            try:
                before, began = processes.cpu_s(), perf_counter()
                _go_on(process)
                _expect(process, "done")
                seconds, cpu_s = perf_counter() - began, processes.cpu_s() - before
                processes.look()
            finally:
                processes.stop()
                watcher.join()
            _go_on(process)
            kept = json.loads(process.stdout.readline())
            process.stdin.close()
            process.wait()
    return Cost(seconds, cpu_s, processes.peak_bytes / 2**30, **kept)


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"a contender ended before it was {word}")


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20,000 rows, one round: to see that it works")
    parser.add_argument("--alone", action="store_true", help="ours without its peers: what it takes in memory")
    given = parser.parse_args()
    count, rounds = (20_000, 1) if given.quick else (given.rows, given.rounds)
    names = ["ours"] if given.alone else list(CONTENDERS)
    cores = len(os.sched_getaffinity(0))
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="trivium-curate-") as folder:
        snapshot = rows.write(Path(folder) / "collect-benchmark", count)
        print(
            f"{count:,} rows; {'':<10}{'seconds':>9}{'cpu s':>9}{'rows/s/core':>13}{'peak GiB':>10}{'kept':>10}",
            flush=True,
        )
        for round in range(rounds):
            for name in names[round % len(names) :] + names[: round % len(names)]:
                cost = measure(name, snapshot, cores)
                costs[name].append(cost)
                print(
                    f"round {round} {name:<14}{cost.seconds:>9.1f}{cost.cpu_s:>9.1f}{count / cost.cpu_s:>13,.0f}"
                    f"{cost.peak_gib:>10.2f}{cost.kept:>10,}",
                    flush=True,
                )
    different = {name for name in names if {cost.digest for cost in costs[name]} != {costs["ours"][0].digest}}
    if different:
        raise RuntimeError(f"other rows than ours were kept by {', '.join(sorted(different))}")

    def speed(name: str) -> list[float]:
        return [count / cost.cpu_s for cost in costs[name]]

    conclude(
        runs=rounds,
        rows=count,
        rows_per_s_core=statistics.median(speed("ours")),
        vs_datasets=None if given.alone else paired(speed("ours"), speed("datasets")),
        vs_polars=None if given.alone else paired(speed("ours"), speed("polars")),
        peak_gib=max(cost.peak_gib for cost in costs["ours"]),
    )


if __name__ == "__main__":
    main()
