"""The machine in words: what a figure needs beside it, and nothing that names the machine itself."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from cluster.environment import has_gpu


def describe() -> str:
    """Such as `AMD EPYC, 2 cores, 24 GiB, no GPU`."""
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory_gib} GiB, {'GPU' if has_gpu() else 'no GPU'}"


def processor(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The processor's name, without what makers write around it."""
    for line in Path(cpuinfo).read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].partition("@")[0]
            return " ".join(name.replace("(R)", "").replace("(TM)", "").replace(" CPU", "").split())
    return "unknown processor"


def drop_page_cache() -> bool:
    """Make the next reads come from the disk. False where the kernel does not let this user do it."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True
