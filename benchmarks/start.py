"""`make bench NAME=start`: `trivium up` on a state that is not there yet, to the first token. Cold, then warm.

Cold: the page cache is dropped before, so that code and weights come from the disk. What `up` does meanwhile is printed
as it says it; benchmarks/README.md tells more.
"""

from __future__ import annotations

import argparse
import statistics
import time

import httpx

from benchmarks import conclude
from benchmarks.clusters import Cluster, cluster
from benchmarks.machine import drop_page_cache
from cluster import auth


def first_token_s(made: Cluster) -> float:
    """Seconds from `trivium up` to the first event of a stream."""
    began = time.monotonic()
    said = made.up()
    up_s = time.monotonic() - began
    headers = {"authorization": f"Bearer {auth.first_key(made.settings.state)}"}
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 4}
    url = f"{made.settings.base_url}/chat/completions"
    with httpx.stream("POST", url, headers=headers, json=body, timeout=60, trust_env=False) as answer:
        answer.raise_for_status()
        next(answer.iter_raw())
    took_s = time.monotonic() - began
    print("\n".join(line for line in said.splitlines() if line.lstrip()[:1].isdigit()))
    print(f"{up_s:6.1f} s  `up` has ended\n{took_s:6.1f} s  first token\n", flush=True)
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    cold: list[float] = []
    warm: list[float] = []
    for round in range(rounds):
        for name, took in (("cold", cold), ("warm", warm)):
            if name == "cold" and not drop_page_cache():
                print("the page cache cannot be dropped by this user: no cold start")
                continue
            print(f"round {round}, {name}", flush=True)
            with cluster() as made:
                took.append(first_token_s(made))
    conclude(
        runs=rounds,
        cold_s=statistics.median(cold) if cold else None,
        warm_s=statistics.median(warm),
    )


if __name__ == "__main__":
    main()
