"""`make bench NAME=swap`: how fast a new version reaches every replica, and what that does to those who are served.

Two replicas under a steady load of streams. In every round a quiet stretch, in which one adapter serves, is followed by
one in which the next version is registered and promoted, over HTTP as the pipelines do it, every other second.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks import adapters, conclude, load, paired
from benchmarks.clusters import Cluster, cluster
from benchmarks.load import Job, Seen

REPLICAS = 2
CALLERS = 4
STRETCH_S = 10.0
EVERY_S = 2.0
"""From one swap to the next."""
PATIENCE_S = 30.0


@dataclass
class Watch:
    """Asks one replica again and again, past HAProxy, until it answers with a version."""

    address: str
    headers: dict[str, str]
    failures: list[str] = field(default_factory=list)

    def first_token(self, version: str) -> float:
        """When it came (`time.monotonic`)."""
        body = {"model": "assistant", "messages": [{"role": "user", "content": version}], "max_tokens": 1}
        deadline = time.monotonic() + PATIENCE_S
        with httpx.Client(base_url=self.address, headers=self.headers, trust_env=False) as http:
            while time.monotonic() < deadline:
                with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
                    if not answer.is_success:
                        self.failures.append(f"{answer.status_code}: {answer.read()[:200]!r}")
                    next(answer.iter_raw(), b"")
                    if answer.headers.get("x-trivium-version") == version:
                        return time.monotonic()
                time.sleep(0.01)
        raise RuntimeError(f"{self.address} does not answer with {version} within {PATIENCE_S:.0f} s")


class Swaps:
    """Registers and promotes one adapter after the other."""

    def __init__(self, made: Cluster, key: str, folder: Path) -> None:
        self._made, self._folder, self._number = made, folder, 0
        self._watches = [Watch(address, {"authorization": f"Bearer {key}"}) for address in made.gateways()]
        assert len(self._watches) == REPLICAS, self._watches
        self.took_s: list[float] = []
        """From before a version is registered to its first token on the last replica."""

    @property
    def failures(self) -> list[str]:
        return [failure for watch in self._watches for failure in watch.failures]

    def swap(self) -> float:
        """One swap; seconds to the first token of the new version on every replica."""
        self._number += 1
        source = adapters.write(self._folder / str(self._number), seed=self._number)
        with self._made.client() as client, ThreadPoolExecutor(REPLICAS) as threads:
            began = time.monotonic()
            version = adapters.register(self._made.settings, source)
            firsts = [threads.submit(watch.first_token, version.id) for watch in self._watches]
            client.promote("assistant", version.id, "benchmark")
            return max(first.result() for first in firsts) - began

    def during(self, seconds: float) -> None:
        """Swaps for so long, one every `EVERY_S`."""
        until = time.monotonic() + seconds
        while (began := time.monotonic()) < until - EVERY_S:
            self.took_s.append(self.swap())
            time.sleep(max(0, EVERY_S - (time.monotonic() - began)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round: to see that it works")
    rounds = 1 if parser.parse_args().quick else 5
    quiet: list[Seen] = []
    swapping: list[Seen] = []
    with cluster() as made:
        print(made.up("--replicas", str(REPLICAS)), flush=True)
        key = made.key()
        swaps = Swaps(made, key, made.settings.state / "adapters")
        warm = [swaps.swap() for _ in range(3)]  # the first adapter of an engine costs it more
        print(f"not counted: {', '.join(f'{seconds:.2f} s' for seconds in warm)}")
        job = Job(url=made.settings.base_url.removesuffix("/v1"), model="assistant", key=key, concurrency=CALLERS)
        for round in range(rounds):
            quiet.append(load.run(job.model_copy(update={"seconds": STRETCH_S, "seed": f"quiet {round}"})))
            thread = threading.Thread(target=swaps.during, args=(STRETCH_S,))
            thread.start()
            swapping.append(load.run(job.model_copy(update={"seconds": STRETCH_S, "seed": f"swap {round}"})))
            thread.join()
            for name, seen in (("quiet", quiet[-1]), ("swapping", swapping[-1])):
                print(
                    f"round {round} {name:<9} {seen.requests_per_s:7.1f} requests/s, inter-token p50 "
                    f"{seen.inter_token_p50_ms:6.1f} ms, p99 {seen.inter_token_p99_ms:6.1f} ms, TTFT p99 "
                    f"{seen.ttft_p99_ms:6.1f} ms, {seen.failed} failed, versions {', '.join(seen.versions)}",
                    flush=True,
                )
    failed = sum(seen.failed for seen in quiet + swapping) + len(swaps.failures)
    print(f"first token on all {REPLICAS} replicas, {len(swaps.took_s)} swaps: median "
          f"{statistics.median(swaps.took_s):.3f} s, slowest {max(swaps.took_s):.3f} s")  # fmt: skip
    for failure in [*swaps.failures, *(failure for seen in quiet + swapping for failure in seen.failures)][:10]:
        print(f"failed: {failure}")
    conclude(
        runs=rounds,
        first_token_s=max(swaps.took_s),
        inter_token_p99_ratio=paired(
            [seen.inter_token_p99_ms or 0 for seen in swapping], [seen.inter_token_p99_ms or 0 for seen in quiet]
        ),
        failed=failed,
    )


if __name__ == "__main__":
    main()
