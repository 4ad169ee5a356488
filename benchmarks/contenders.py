"""Who serves in `benchmarks.serving`: the same model and engine arguments, the same threads, no access logs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import adapters
from benchmarks.clusters import ROOT, Cluster, args_of, cluster, free_port, plain_environment, temporary
from benchmarks.clusters import title as title_of
from cluster import models
from cluster.environment import CHOICES

START_S = 600
"""Longest that a contender may take to start."""
SETTLE_S, IDLE_CORES = 30.0, 0.25
"""A contender is measured once it uses less than so much of a core by itself, and after so long all the same."""
CANDIDATE_SHARE = 0.1
"""Of the requests, to an adapter: the canary's in ours. Bare has none, so the client asks it for as many by name."""


@dataclass(frozen=True)
class Target:
    """Where a contender answers."""

    url: str
    model: str
    processes: Callable[[], list[psutil.Process]]
    key: str = ""
    candidate: str | None = None
    base: str = ""
    """What to ask for where no adapter shall answer; empty where none ever does."""


Contender = Callable[[], AbstractContextManager[Target]]


@contextmanager
def bare(module: str = "benchmarks.bare") -> Iterator[Target]:
    """vLLM's own server, with the model in the engine's process as in ours; `module` is what is run."""
    with temporary() as folder:
        port = free_port()
        command = [sys.executable, "-m", module, *flags(engine_arguments())]
        command += ["--model", str(models.seed_folder()), "--served-model-name", "seed"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
        command += ["--lora-modules", f"candidate={adapters.write(folder / 'adapter', seed=1)}"]
        with _running(command, folder) as process:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, folder)
            yield Target(url, "seed", lambda: _family(process), candidate="candidate", base="seed")


@contextmanager
def default_ingress() -> Iterator[Target]:
    """Ray Serve LLM as its guide has it (`build_openai_app`). It takes no local adapter, so it has less to do."""
    with temporary() as folder:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "benchmarks.peers",
            "default-ingress",
            json.dumps(args_of("assistant")),
            str(port),
        ]
        with _running(command, folder) as process:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, folder)
            yield Target(url, "seed", lambda: _family(process))


@contextmanager
def ours() -> Iterator[Target]:
    """`trivium up`, called with a key that has limits and may only infer; log on, a canary on."""
    with cluster() as made:
        made.configure(rollout={"args": args_of("rollout") | {"shares": [CANDIDATE_SHARE]}})
        made.up()
        version = adapters.register(made.settings, adapters.write(made.settings.state / "adapter", seed=1))
        with made.client() as client:
            client.canary("assistant", version.id, "benchmark", share=CANDIDATE_SHARE)
        yield _target(made, base="assistant@0")


@contextmanager
def fake() -> Iterator[Target]:
    """Ours around an engine that answers at once: HAProxy, Serve, the gateway and the log, and nothing else."""
    with cluster() as made:
        made.configure(assistant={"import_path": "benchmarks.fake:build"})
        made.up()
        yield _target(made)


CONTENDERS: dict[str, Contender] = {
    "bare": bare,
    "bare as it is": functools.partial(bare, module="vllm.entrypoints.openai.api_server"),
    "default ingress": default_ingress,
    "ours": ours,
    "ours, fake engine": fake,
}


@functools.cache
def engine_arguments() -> dict[str, Any]:
    """vLLM's arguments as ours gives them; from a process that imports vLLM."""
    command = [sys.executable, "-m", "benchmarks.peers", "arguments", json.dumps(args_of("assistant"))]
    said = subprocess.run(command, env=plain_environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(said.stdout.splitlines()[-1])


def flags(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line takes them."""
    given: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            given += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return given


def settle(processes: list[psutil.Process]) -> None:
    """Wait until what follows a start is over: imports in the background, a data base that is made."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        before = _spent_s(processes)
        time.sleep(1)
        if _spent_s(processes) - before < IDLE_CORES:
            return


def _spent_s(processes: list[psutil.Process]) -> float:
    spent = 0.0
    for process in processes:
        with suppress(psutil.Error):
            spent += sum(process.cpu_times()[:2])
    return spent


def by_kind(processes: list[psutil.Process]) -> dict[str, list[int]]:
    """Process ids, by what the processes are for."""
    found: dict[str, list[int]] = {}
    for process in processes:
        found.setdefault(kind(title_of(process)), []).append(process.pid)
    return found


KINDS = {
    "engine": ("EngineCore", "VLLM::Worker"),  # scheduler and model
    "ingress": ("haproxy", "ProxyActor", "OpenAiIngress"),  # what stands before the next
    "server": ("api_server", "benchmarks.bare", "Gateway:", "LLMServer:"),  # speaks OpenAI
}


def kind(title: str) -> str:
    """What a process with this title is for; `rest` for all of Ray and Serve that no request passes through."""
    return next((kind for kind, marks in KINDS.items() if any(mark in title for mark in marks)), "rest")


def _target(made: Cluster, base: str = "") -> Target:
    return Target(made.settings.base_url.removesuffix("/v1"), "assistant", made.processes, key=made.key(), base=base)


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    from services.serving import ServingSettings, cpu_environment  # imports Ray Serve, which takes a while

    threads = cpu_environment(ServingSettings.model_validate(args_of("assistant")))
    variables = {**plain_environment(), **CHOICES, **threads, "PYTHONPATH": str(ROOT)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, env=variables, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        family = []
        try:
            yield process
        finally:
            family = _family(process)
            assert process.stdin
            process.stdin.close()
            process.terminate()
            psutil.wait_procs(family, timeout=10)
            for child in family:
                with suppress(psutil.Error):
                    child.kill()
            process.wait()


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.Error):
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    return []


def _wait(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until it answers. Raises `RuntimeError` with the end of its log if it ends before."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/v1/models", timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer: {(folder / 'log').read_text(errors='replace')[-3000:]}")
