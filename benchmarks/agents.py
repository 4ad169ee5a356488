"""`make bench NAME=agents`: what a step of a durable run costs, beyond the time of model and tool, beside LangGraph.

A thousand runs at once do the same job in either: so many times a call of a tool, then an answer. Model and tool only
wait, as if they were elsewhere; what a step costs is the time from the end of one of them to the beginning of the next.
Both contenders write every step to this disk before the next one begins: ours to the log, LangGraph to its SQLite
checkpointer. Each has a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import conclude, mcp_call, paired, quantile
from benchmarks.clusters import ROOT, temporary
from cluster.settings import Strict

TASK = "Note what you are told, one thing after the other, and say when you are done."
NOTE = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Told(Strict):
    """What a contender does."""

    contender: str
    folder: Path
    runs: int
    calls: int
    """Of the tool, in each run."""
    think_s: float
    act_s: float


class Found(Strict):
    """What came of it."""

    p50_ms: float
    p99_ms: float
    seconds: float
    mib_per_run: float
    """Memory that the runs took while they waited."""


@dataclass
class World:
    """The model and the tool, the same for both: they wait, and keep time."""

    told: Told
    costs_s: list[float] = field(default_factory=list)
    _ended: dict[str, float] = field(default_factory=dict)

    async def think(self, run: str, said: int) -> str | None:
        """What the model wants noted after so many notes; None: it is done."""
        await self._wait(run, self.told.think_s)
        return f"thing {said}" if said < self.told.calls else None

    async def act(self, run: str) -> str:
        await self._wait(run, self.told.act_s)
        return "noted"

    async def _wait(self, run: str, seconds: float) -> None:
        if run in self._ended:
            self.costs_s.append(time.perf_counter() - self._ended[run])
        # Spread a little, as models are: else all runs march in step.
        await asyncio.sleep(seconds * (0.5 + hash((run, len(self.costs_s))) % 1000 / 1000))
        self._ended[run] = time.perf_counter()


async def ours(world: World) -> Callable[[str], Awaitable[None]]:
    """The pool of `services/agents/run.py`, as a replica has it."""
    from cluster.auth import Principal
    from cluster.log import Log
    from services.agents.contract import Agent, RunLimits
    from services.agents.journal import Thought
    from services.agents.loop import Turn
    from services.agents.policy import Policy, PolicySettings
    from services.agents.run import Pool
    from services.agents.tools import Invocation, Result, Tool, Toolbox

    async def model(turn: Turn) -> Thought:
        wants = await world.think(turn.session, sum(each["role"] == "tool" for each in turn.messages))
        if wants is None:
            return Thought({"role": "assistant", "content": "done"})
        call = {"name": "note", "arguments": json.dumps({"text": wants})}
        return Thought(
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]}
        )

    async def note(invocation: Invocation) -> Result:
        return Result(await world.act(invocation.caller.run))

    who, state = Principal("benchmark"), world.told.folder
    agent = Agent(description="notes", instructions=TASK, tools=("note",), limits=RunLimits(turns=world.told.calls + 1))
    tools = Toolbox([Tool("note", "Notes a text.", NOTE, note, "function:benchmarks")])
    (state / "own.cedar").write_text('permit (principal, action == Action::"call", resource == Tool::"note");')
    policy = Policy(PolicySettings(files=(state / "own.cedar",)))
    pool = Pool(state, {"noter": agent}, tools, policy, model, lambda _: who, log=Log(state / "log"))
    await pool.open()

    async def run(name: str) -> None:
        view = await pool.start(who, "noter", name)
        async for _ in pool.follow(who, view.id):
            pass
        assert (await pool.get(who, view.id)).state == "completed"

    return run


async def langgraph(world: World) -> Callable[[str], Awaitable[None]]:
    from benchmarks.graphs import runner

    return await runner(world.told.folder / "checkpoints.sqlite", world.told.calls, world.think, world.act, TASK)


CONTENDERS = {"ours": ours, "langgraph": langgraph}


async def measure(told: Told) -> Found:
    world = World(told)
    run = await CONTENDERS[told.contender](world)
    await asyncio.gather(*(run(f"warm-{number}") for number in range(20)))
    world.costs_s.clear()
    before, most = rss(), 0.0
    began = time.perf_counter()
    runs = asyncio.gather(*(run(f"run-{number}") for number in range(told.runs)))
    while not runs.done():
        most = max(most, rss())
        await asyncio.wait([runs], timeout=0.25)
    await runs
    return Found(
        p50_ms=1000 * quantile(world.costs_s, 0.5),
        p99_ms=1000 * quantile(world.costs_s, 0.99),
        seconds=time.perf_counter() - began,
        mib_per_run=(most - before) / told.runs,
    )


def rss() -> float:
    """MiB of this process."""
    return psutil.Process().memory_info().rss / 2**20


def turn(told: Told) -> Found:
    """One contender in a process of its own."""
    told.folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.agents", "--contender"],
        input=told.model_dump_json(),
        env={**os.environ, "PYTHONPATH": str(ROOT), "LANGSMITH_TRACING": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Found.model_validate_json(done.stdout.strip().splitlines()[-1])


def contend() -> None:
    """Be the contender that the input says."""
    found = asyncio.run(measure(Told.model_validate_json(sys.stdin.read())))
    print(found.model_dump_json(), flush=True)
    os._exit(0)  # what either keeps open is nobody's any more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of few runs: to see that it works")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--contender", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        return contend()
    rounds, runs = (1, 50) if given.quick else (given.rounds, given.runs)
    found: dict[str, list[Found]] = {name: [] for name in CONTENDERS}
    print(
        f"{runs:,} runs at once\n{'':<10} {'step p50':>10} {'p99':>10} {'all took':>10} {'MiB a run':>10}", flush=True
    )
    with temporary() as folder:
        for number in range(rounds):
            for name in CONTENDERS:
                told = Told(
                    contender=name, folder=folder / f"{name}-{number}", runs=runs, calls=4, think_s=4.0, act_s=1.0
                )
                found[name].append(seen := turn(told))
                print(
                    f"{name:<10} {seen.p50_ms:7.2f} ms {seen.p99_ms:7.2f} ms {seen.seconds:8.1f} s "
                    f"{seen.mib_per_run:10.3f}",
                    flush=True,
                )
        called = asyncio.run(mcp_call.measure(folder / "mcp", rounds))["2026-07-28"]
    print(f"a call through /mcp, client and server in a process each: p50 {quantile(called, 0.5):.2f} ms")
    mine, theirs = found["ours"], found["langgraph"]
    conclude(
        runs=rounds,
        step_p50_ms=quantile([each.p50_ms for each in mine], 0.5),
        step_p99_ms=quantile([each.p99_ms for each in mine], 0.5),
        mib_per_run=quantile([each.mib_per_run for each in mine], 0.5),
        step_p50_vs_langgraph=paired([each.p50_ms for each in mine], [each.p50_ms for each in theirs]),
        mcp_call_p50_ms=quantile(called, 0.5),
    )


if __name__ == "__main__":
    main()
