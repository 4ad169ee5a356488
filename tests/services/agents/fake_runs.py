"""`Runs` in memory. What a task says is what becomes of it, line by line:

    step                something happens
    wait                nothing does, until `release`
    ask QUESTION        the run wants words; what is said becomes its memory
    tool QUESTION       the same, but it is a call that asks
    child QUESTION      the same, but a sub-agent asks: the run shows the question a little longer
    call QUESTION       the run wants a yes or no; a no lets it fail
    say ANSWER          it is completed; `{}` stands for what was said
    fail REASON         reject REASON

Anything else is answered with itself.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Unpack

from cluster.auth import Principal
from cluster.records import Step
from services.agents.contract import ENDED, Agent, Order, View


@dataclass
class _Run:
    view: View
    steps: list[Step] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    said: str = ""
    verb: str = ""
    """Of the question."""
    work: asyncio.Task[None] | None = None


class FakeRuns:
    def __init__(self, **agents: Agent) -> None:
        self._agents = agents or {"clerk": Agent(description="Answers letters.")}
        self._runs: dict[str, _Run] = {}
        self._numbers = itertools.count(1)
        self._news = asyncio.Condition()
        self._clock = 0.0

    async def agents(self) -> dict[str, Agent]:
        return self._agents

    async def start(self, who: Principal, agent: str, task: str, **order: Unpack[Order]) -> View:
        if (run := order.get("run")) in self._runs:
            return self._runs[run].view
        if (thread := order.get("thread")) == "forbidden":
            raise ValueError("this thread is not yours; leave it out")
        id, now = run or f"run-{next(self._numbers)}", self._now()
        view = View(
            id=id,
            agent=agent,
            principal=who.id,
            thread=thread or f"thread-{id}",
            parent=order.get("parent"),
            state="submitted",
            task=task,
            created=now,
            updated=now,
        )
        self._runs[id] = one = _Run(view)
        await self._write(one, "started", state="submitted")
        one.work = asyncio.create_task(self._go(one))
        return one.view

    async def get(self, who: Principal, run: str) -> View:
        return self._own(who, run).view

    async def list(self, who: Principal, agent: str | None = None, limit: int = 100) -> list[View]:
        views = [one.view for one in self._runs.values() if agent in (None, one.view.agent)]
        seen = [view for view in views if view.principal == who.id or "admin" in who.scopes]
        return sorted(seen, key=lambda view: view.created, reverse=True)[:limit]

    async def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        one = self._own(who, run)
        while True:
            async with self._news:
                while len(one.steps) <= since and not _settled(one.view):
                    await self._news.wait()
                fresh = one.steps[since:]
            for step in fresh:
                yield step
            since += len(fresh)
            if not fresh:
                return

    async def say(self, who: Principal, run: str, text: str) -> View:
        one = self._own(who, run)
        if one.verb == "call":
            raise ValueError(f"run {run} wants a yes or no; approve or decline")
        return await self._answered(one, text)

    async def approve(self, who: Principal, run: str, approved: bool, result: str | None = None) -> View:
        one = self._own(who, run)
        if one.verb != "call":
            raise ValueError(f"run {run} wants an answer in words")
        return await self._answered(one, approved if result is None else result)

    async def cancel(self, who: Principal, run: str) -> View:
        one = self._own(who, run)
        if one.view.state in ENDED:
            raise ValueError(f"run {run} is {one.view.state} already")
        if one.work:
            one.work.cancel()
        await self._write(one, "canceled", state="canceled", reason="canceled on request")
        return one.view

    def release(self, run: str) -> None:
        self._runs[run].released.set()

    def view(self, run: str) -> View:
        return self._runs[run].view

    @property
    def ids(self) -> list[str]:
        return list(self._runs)

    @property
    def started(self) -> int:
        return len(self._runs)

    async def _answered(self, one: _Run, answer: Any) -> View:
        if one.view.state != "input-required":
            raise ValueError(f"run {one.view.id} does not ask")
        if one.verb != "child":
            await self._write(one, "answered", state="working", question=None, wants=None, operation=None)
        one.answers.put_nowait(answer)
        return one.view

    async def _go(self, one: _Run) -> None:
        await self._write(one, "working", state="working")
        for line in one.view.task.splitlines():
            verb, _, rest = line.partition(" ")
            match verb:
                case "step":
                    await self._write(one, "stepped")
                case "wait":
                    await one.released.wait()
                case "ask" | "tool" | "child" | "call":
                    one.verb, operation = verb, None if verb == "ask" else "op-1"
                    asked = {"question": rest, "operation": operation}
                    wants = "approval" if verb == "call" else "words"
                    await self._write(one, "asked", state="input-required", wants=wants, **asked)
                    one.said = str(await one.answers.get())
                    if verb == "child":
                        await asyncio.sleep(0.05)
                        await self._write(one, "answered", state="working", question=None, wants=None, operation=None)
                    if one.said == "False":
                        return await self._write(one, "ended", state="failed", reason="the call was denied")
                case "say":
                    answer = rest.replace("{}", one.said)
                    return await self._write(one, "ended", state="completed", answer=answer)
                case "fail":
                    return await self._write(one, "ended", state="failed", reason=rest)
                case "reject":
                    return await self._write(one, "ended", state="rejected", reason=rest)
        return await self._write(one, "ended", state="completed", answer=one.view.task)

    async def _write(self, one: _Run, event: str, **changes: Any) -> None:
        async with self._news:
            now = self._now()
            one.view = one.view.model_copy(update={**changes, "updated": now})
            one.steps.append(
                Step(
                    request_id=f"{one.view.id}/{len(one.steps)}",
                    time=now,
                    principal=one.view.principal,
                    session=one.view.thread,
                    run=one.view.id,
                    number=len(one.steps),
                    agent=one.view.agent,
                    source="fake",
                    event=event,
                )
            )
            self._news.notify_all()

    def _own(self, who: Principal, run: str) -> _Run:
        one = self._runs[run]
        if one.view.principal != who.id and "admin" not in who.scopes:
            raise KeyError(run)
        return one

    def _now(self) -> float:
        """Of two entries the later one has the later time, whatever the clock's resolution."""
        self._clock = max(self._clock + 0.001, time.time())
        return self._clock


def _settled(view: View) -> bool:
    return view.state in ENDED or view.state == "input-required"
