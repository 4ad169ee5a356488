"""The process of a CPU engine, begun while its replica still imports.

vLLM would spawn it when the replica has imported vLLM, and it would then import vLLM once more: 13 s after 13 s. Here
multiprocessing's forkserver, a process that imports what it is told and forks for whoever asks, imports it at the same
time, and the engine is forked from that.
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

IMPORTED = [
    *("services.early", "ray", "vllm.v1.engine.core", "vllm.v1.executor.uniproc_executor"),
    "vllm.v1.worker.cpu_worker",
]
"""What an engine imports before it looks at its model."""
PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def begin() -> None:
    """Start importing. Later calls change nothing."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    forkserver.ensure_running()


class Context(ForkServerContext):
    """What vLLM starts an engine's process by."""

    def Process(  # type: ignore[override]  # a class there
        self, target: Callable[..., None], name: str, kwargs: dict[str, Any]
    ) -> ForkServerProcess:
        return ForkServerProcess(target=_run, name=name, args=(target, dict(os.environ)), kwargs=kwargs)


def _run(target: Callable[..., None], environment: dict[str, str], /, **kwargs: Any) -> None:
    """In the forked process: what a spawned one would have found."""
    os.environ.clear()
    os.environ.update(environment)
    # The forkserver ends with its replica, however that ends; so does the engine.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    target(**kwargs)
