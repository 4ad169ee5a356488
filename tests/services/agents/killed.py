"""Runs one job in process after process, each killed at one point more than the one before; for `test_kills.py`.

`python -m tests.services.agents.killed FOLDER` prints one line of JSON for each point: what the run came to, and what
its tools did. A point is before or after each write to the log, each answer of the model, each effect of a tool.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cluster.log import Log
from services.agents import journal
from services.agents.contract import View
from services.agents.journal import Thought
from services.agents.loop import Turn
from services.agents.run import Pool
from services.agents.tools import Invocation, Result, Tool
from tests.services.agents.scripted import ANNA, Listed, Scripted, call, noting, pool, says

JOB = Scripted.of(
    says(None, call("once", {"text": "a"}), call("often", {"text": "b"}, "d")),
    says(None, call("once", {"text": "c"})),
    says("done"),
)


class Fuse:
    """Ends this process, as `kill -9` does, when so many points have been passed."""

    def __init__(self, left: int) -> None:
        self.left = left

    def point(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Model:
    def __init__(self, fuse: Fuse) -> None:
        self.fuse = fuse

    async def __call__(self, turn: Turn) -> Thought:
        self.fuse.point()
        thought = await JOB(turn)
        self.fuse.point()
        return thought


def fused(tool: Tool, fuse: Fuse) -> Tool:
    async def run(invocation: Invocation) -> Result:
        fuse.point()
        result = await tool.run(invocation)
        fuse.point()
        return result

    return Tool(tool.name, tool.description, tool.schema, run, tool.owner, tool.idempotent)


def process(folder: Path, left: int) -> Pool:
    fuse, notes = Fuse(left), folder / "notes"
    tools = [fused(noting(notes, "once"), fuse), fused(noting(notes, "often", idempotent=True), fuse)]
    runs = pool(folder / "state", Model(fuse), *tools, permits=Listed(("once", "often")))
    put = runs.own.writer.put

    def watched(*entries: Any) -> asyncio.Future[None]:
        fuse.point()
        waiter = put(*entries)
        waiter.add_done_callback(lambda _: fuse.point())
        return waiter

    runs.own.writer.put = watched  # type: ignore[method-assign]
    return runs


async def begin(folder: Path, left: int) -> None:
    runs = process(folder, left)
    await runs.open()
    await runs.start(ANNA, "clerk", "do it", run="job")
    await ends(runs, folder)
    await runs.close()


async def ends(runs: Pool, folder: Path) -> tuple[View, int]:
    """Follow the run to its end, and answer what it asks as somebody would who looks at what has happened."""
    asked = 0
    async with asyncio.timeout(60):
        while True:
            async for _ in runs.follow(ANNA, "job"):
                pass
            view = await runs.get(ANNA, "job")
            if view.state != "input-required":
                return view, asked
            asked += 1
            happened = f"once {view.operation}\n" in (folder / "notes").read_text() if view.operation else False
            if happened:
                text = "a" if (view.operation or "").endswith(".1.0") else "c"
                await runs.approve(ANNA, "job", True, f"noted {text}")
            else:
                await runs.approve(ANNA, "job", True)


async def inherit(folder: Path) -> dict[str, Any]:
    (folder / "notes").touch()
    runs = process(folder, 0)
    await runs.open()
    try:
        await runs.get(ANNA, "job")
    except KeyError:  # killed before the run was in the log: its caller asks again
        await runs.start(ANNA, "clerk", "do it", run="job")
    view, asked = await ends(runs, folder)
    messages = journal.fold([step async for step in runs.follow(ANNA, "job")]).messages
    await runs.close()
    return {
        "state": view.state,
        "answer": view.answer,
        "turns": view.turns,
        "tokens": view.tokens,
        "asked": asked,
        "messages": messages,
        "notes": (folder / "notes").read_text().splitlines(),
        "owners": len(list((folder / "state" / "agents" / "owners").iterdir())),
    }


def child(work: Any) -> int:
    """Run a coroutine in a process of its own (everything is imported, no thread runs); its wait status."""
    if (pid := os.fork()) == 0:
        try:
            asyncio.run(work())
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def main(folder: Path) -> None:
    import cluster.log.table  # noqa: F401  # once, not in each process

    left = 0
    while True:
        left += 1
        own = folder / str(left)
        own.mkdir()
        status = child(lambda own=own, left=left: begin(own, left))
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if left % 3 == 0:
            child(lambda own=own: compacted(own))  # the journal is then in the table
        assert child(lambda own=own: told(own)) == 0
        found = json.loads((own / "told.json").read_text())
        print(json.dumps({"point": left, "killed": killed, **found}), flush=True)
        if not killed:
            return


async def told(own: Path) -> None:
    (own / "told.json").write_text(json.dumps(await inherit(own)))


async def compacted(own: Path) -> None:
    Log(own / "state" / "log").compact()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
