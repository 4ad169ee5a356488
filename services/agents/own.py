"""The runs of this process: begun here or inherited, worked on, packed away while they wait, and left to others.

A thousand runs share one event loop and one writer, so many of their steps share an fsync. What a run is stands in its
journal; a process that dies leaves a lock that is free and journals without an end, and another process goes on with
them (`owners.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from cluster import telemetry
from cluster.auth import Principal
from cluster.log import Log
from cluster.records import Message, Step
from services.agents import journal, loop, owners
from services.agents.archive import WRITER, Archive
from services.agents.contract import ENDED, Agent, Busy, Order, RunLimits, View
from services.agents.journal import (
    Called,
    Canceled,
    Claim,
    Decided,
    Ended,
    Event,
    Heard,
    Progress,
    Resulted,
    Rewarded,
    Start,
)
from services.agents.live import Live
from services.agents.owners import NotOurs, Ownership
from services.agents.permits import Permits
from services.agents.rates import Rates
from services.agents.tools import Toolbox

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often owners look for those that died."""
WAIT_S = 20.0
"""Longest that one question of a follower waits in another process."""
REMEMBERED = 256
"""Runs that ended which a process still knows without the log."""
EARLIER = 16
"""Runs of a thread that the next one remembers."""


class Everywhere(Protocol):
    """The runs of all processes, as those of this one need them: for sub-agents and who spawned them."""

    async def look(self, who: Principal, run: str) -> View | None: ...

    async def say(self, who: Principal, run: str, text: str) -> View: ...

    async def approve(self, who: Principal, run: str, approved: bool, result: str | None = None) -> View: ...

    async def cancel(self, who: Principal, run: str) -> View: ...

    async def poke(self, parent: str, child: str, principal: str) -> None: ...


# Within `Own`, `list` is something else.
Views = list[View]
Steps = list[Step]
Messages = list[Message]
Progresses = list[Progress]


class Own:
    """One process's. Knows principals, but not their scopes: `may` says who may see a run."""

    def __init__(
        self,
        state: Path,
        agents: dict[str, Agent],
        tools: Toolbox,
        permits: Permits,
        model: loop.Model,
        principal: Callable[[str], Principal | None],
        log: Log,
        everywhere: Everywhere,
        most: int,
    ) -> None:
        self.model, self.permits, self.principal = model, permits, principal
        self._state, self._agents, self._everywhere, self._most = state, agents, everywhere, most
        self._tools: dict[str, Toolbox] = {}
        self.equip(tools)
        self.archive = Archive(log)
        self.writer = log.writer(WRITER)
        self.ownership = Ownership(state, self.writer.name)
        self.live: dict[str, Live] = {}
        self._over: OrderedDict[str, Live] = OrderedDict()
        self._rates = Rates()
        self._errands: set[asyncio.Task[Any]] = set()
        self._since = 0.0
        self.lost = False
        """Another process took this one for dead; it must end."""

    def equip(self, tools: Toolbox) -> None:
        """What runs that begin from now on choose from. Raises `ValueError` where an agent's tool is not among it."""
        self._tools = {name: tools.chosen(agent.tools) for name, agent in self._agents.items()}

    async def open(self) -> None:
        """Be an owner, and take over what others have left."""
        self._since = time.time()
        await asyncio.to_thread(self.ownership.open, self._since)
        await self._adopt()
        self._errand(self._watch())

    async def close(self) -> None:
        """Leave: what is not at its end goes on elsewhere, or here after the next start."""
        tasks = [live.task for live in self.live.values() if live.task is not None]
        for task in [*tasks, *self._errands]:
            task.cancel()
        await asyncio.gather(*tasks, *self._errands, return_exceptions=True)
        await asyncio.to_thread(self.writer.close)
        await asyncio.to_thread(self.ownership.close, not self.live)

    # What may be asked of a run, by this process or another one

    async def peer(self, method: str, who: Principal, run: str | None, *arguments: Any) -> Any:
        """What this process knows or does about a run of its own; None if it has no such run."""
        if method == "list":
            return self.list(who, *arguments)
        live = self.here(run or "")
        if live is None or not may(who, live.progress):
            return None
        try:
            match method:
                case "get":
                    return live.progress.view()
                case "wait":
                    return await self._wait(live, *arguments)
                case "say":
                    return await self._say(live, who, *arguments)
                case "approve":
                    return await self._approve(live, who, *arguments)
                case "cancel":
                    return await self._cancel(live, who)
                case "reward":
                    return await self._reward(live, *arguments)
                case "poke":
                    return await self._poked(live, *arguments)
        except ValueError as error:
            return error
        except NotOurs:
            return None

    async def _wait(self, live: Live, since: int) -> tuple[Steps, bool]:
        """Steps from `since` on, at least one unless none comes for a while; and whether that was all for now."""
        deadline = time.monotonic() + WAIT_S
        while (left := deadline - time.monotonic()) > 0:
            steps = live.since(since)
            over = live.progress.state != "working"
            if steps or over or live.gone:
                return steps, over and not live.gone
            try:
                async with asyncio.timeout(left):
                    await live.changed()
            except TimeoutError:
                break
        return [], False

    async def _say(self, live: Live, who: Principal, text: str) -> View:
        run = live.progress
        _wants(run)
        if run.child is not None:
            await self._everywhere.say(who, run.child, text)
            return run.view()
        if not run.free:
            raise ValueError(f"{run.run} wants a yes or no; approve or decline: {run.question}")
        return await self._heard(live, Heard(who.id, run.operation, text=text))

    async def _approve(self, live: Live, who: Principal, approved: bool, result: str | None) -> View:
        run = live.progress
        _wants(run)
        if run.child is not None:
            await self._everywhere.approve(who, run.child, approved, result)
            return run.view()
        if run.free:
            raise ValueError(f"{run.run} wants an answer in words: {run.question}")
        return await self._heard(live, Heard(who.id, run.operation, approved=approved, result=result))

    async def _heard(self, live: Live, heard: Heard) -> View:
        async with live.gate:
            run = live.progress
            _wants(run)
            if heard.operation != run.operation:
                raise ValueError(f"{run.run} has been answered already")
            await live.write(heard)
            self._go(live)
        self._poke_parent(run)
        return run.view()

    async def _cancel(self, live: Live, who: Principal) -> View:
        run = live.progress
        async with live.gate:
            if run.ended:
                raise ValueError(f"{run.run} has ended already: {run.state}")
            live.unpack()
            children = [call.operation for call in run.pending if call.begun and _spawns(live, call.tool)]
            await live.stop()
            if not run.ended:
                await live.write(Canceled(who.id), Ended("canceled", reason=f"{who.id} canceled it"))
            self._rest(live)
        for child in children:
            whose = Principal(run.principal, ())
            view = await self._everywhere.look(whose, child)
            if view is not None and view.state not in ENDED:
                await self._everywhere.cancel(whose, child)
        return run.view()

    async def _reward(self, live: Live, score: float, source: str, comment: str | None) -> View:
        await live.write(Rewarded(score, source, comment))
        return live.progress.view()

    async def _poked(self, live: Live, child: str) -> View:
        """A sub-agent that this run waits for goes on, or has ended."""
        async with live.gate:
            run = live.progress
            if run.state == "input-required" and run.child == child:
                await live.write(Heard(child, run.operation, approved=True))
                self._go(live)
            return run.view()

    def list(self, who: Principal, agent: str | None) -> Views:
        held = [*self.live.values(), *self._over.values()]
        return [
            live.progress.view() for live in held if agent in (None, live.progress.agent) and may(who, live.progress)
        ]

    def here(self, run: str) -> Live | None:
        return self.live.get(run) or self._over.get(run)

    def recall(self, progress: Progress, steps: Steps) -> None:
        """A run that ended long ago, for somebody who still wants something of it."""
        self._remember(Live(self, progress, steps, Toolbox()))

    # Working on them

    async def begin(self, who: Principal, agent: str, task: str, run: str, order: Order) -> View:
        """A run with this id. What `order` says of limits and parent is already known to hold."""
        if self.lost:
            raise Busy("this process was taken for dead and ends; try again shortly")
        if len(self.live) >= self._most:
            raise Busy(f"{self._most:,} runs are under way or wait for somebody here; try again when some have ended")
        thread, limits = order.get("thread"), order.get("limits") or RunLimits()
        progress = Progress(run, agent, who.id, thread or run)
        progress.owner = self.ownership.name
        live = Live(self, progress, [], self._tools[agent])
        self.live[run] = live
        try:
            earlier = await self._earlier(who, thread) if thread else []
            messages = self._opening(agent, earlier, task)
            await live.write(
                Start(task, messages, limits.model_dump(), order.get("parent"), dict(order.get("metadata") or {}))
            )
        except BaseException:
            if not progress.number:
                del self.live[run]
            raise
        self._go(live)
        return progress.view()

    def _opening(self, agent: str, earlier: Messages, task: str) -> Messages:
        told = [self._agents[agent].instructions, journal.UNTRUSTED if any(self._tools[agent]) else ""]
        system = "\n\n".join(text for text in told if text)
        first: Messages = [{"role": "system", "content": system}] if system else []
        return [*first, *earlier, {"role": "user", "content": task}]

    async def _earlier(self, who: Principal, thread: str) -> Messages:
        """What was asked and answered in the thread before."""
        runs = await asyncio.to_thread(self.archive.thread, thread, who.id)
        messages: Messages = []
        for run in [run for run in runs if run.state == "completed"][-EARLIER:]:
            messages += [{"role": "user", "content": run.task}, {"role": "assistant", "content": run.answer or ""}]
        return messages

    def _go(self, live: Live) -> None:
        if live.progress.state == "working" and (live.task is None or live.task.done()):
            live.task = asyncio.get_running_loop().create_task(self._drive(live))

    async def _drive(self, live: Live) -> None:
        run = live.progress
        try:
            agent = self._agents.get(run.agent)
            if agent is None:
                await live.write(Ended("failed", reason=f"there is no agent {run.agent} any more"))
            else:
                await loop.work(run, agent, live)
        except Exception as error:
            if _is(error, NotOurs):
                return self._leave()
            logger.exception("run %s failed", run.run)
            try:
                await live.write(Ended("failed", reason="a defect of this cluster; its log says which"))
            except NotOurs:
                return self._leave()
        self._rest(live)

    def _rest(self, live: Live) -> None:
        """It waits, or has ended."""
        live.task = None
        if live.progress.ended:
            self.live.pop(live.progress.run, None)
            self._remember(live)
            self._poke_parent(live.progress)
        elif live.progress.state == "input-required":
            live.pack()

    def _remember(self, live: Live) -> None:
        live.pack()
        self._over[live.progress.run] = live
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)

    def _leave(self) -> None:
        """Another process has all our runs."""
        self.lost = True
        for live in self.live.values():
            live.gone = True
            live.tell()
            if live.task is not None and live.task is not asyncio.current_task():
                live.task.cancel()
        self.live.clear()

    def _poke_parent(self, run: Progress) -> None:
        if run.parent is not None:
            self._errand(self._everywhere.poke(run.parent, run.run, run.principal))

    def _errand(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    # Whose run is whose

    async def _watch(self) -> None:
        while not self.lost:
            await asyncio.sleep(LOOK_S)
            try:
                self.ownership.check()
                await self._adopt()
                await self._note_oldest()
                waiting = sum(live.progress.state == "input-required" for live in self.live.values())
                telemetry.runs(len(self.live) - waiting, waiting)
            except NotOurs:
                self._leave()
            except Exception:  # a disk that is away: looked at again
                logger.exception("the owners of runs could not be looked at")

    async def _adopt(self) -> None:
        """Take over the runs of owners that died."""
        with ExitStack() as stack:
            found = await asyncio.to_thread(stack.enter_context, owners.orphans(self._state, self.ownership.name))
            for orphan in found:
                journals = await asyncio.to_thread(self.archive.unfinished, orphan.name, orphan.since)
                lives = [self._inherited(steps) for steps in journals]
                if orphan.since < self._since:  # whoever inherits from us must know before we have anything
                    self._since = orphan.since
                    await asyncio.to_thread(self.ownership.remember, self._since)
                await asyncio.gather(*(live.write(Claim(orphan.name)) for live in lives))
                self.live |= {live.progress.run: live for live in lives}
                await asyncio.to_thread(orphan.settled)
                logger.info("took over %d runs of %s", len(lives), orphan.name)
                for live in lives:
                    self._go(live)
                    if live.task is None:
                        live.pack()
                    if live.progress.child:
                        self._errand(self._look_after(live))

    def _inherited(self, steps: Steps) -> Live:
        progress = journal.fold(steps)
        return Live(self, progress, steps, self._tools.get(progress.agent, Toolbox()))

    async def _look_after(self, live: Live) -> None:
        """A sub-agent may have gone on while nobody could tell the run that waits for it."""
        child = live.progress.child
        assert child is not None
        view = await self._everywhere.look(Principal(live.progress.principal, ()), child)
        if view is None or view.state != "input-required":
            await self._poked(live, child)

    async def _note_oldest(self) -> None:
        oldest = min((live.progress.created or time.time() for live in self.live.values()), default=time.time())
        if oldest - self._since > 60:
            self._since = oldest
            await asyncio.to_thread(self.ownership.remember, oldest)

    # What policies count, and what sub-agents get

    def count(self, run: Progress, event: Event) -> None:
        """What policies and Prometheus are told of a step."""
        match event:
            case Called():
                self._rates.note(run.principal, event.tool, time.monotonic())
            case Decided():
                telemetry.call_decided(run.agent, event.tool, event.effect)
            case Resulted(failed=True, invalid=False):  # else the tool may be a name that a model made up
                telemetry.call_failed(run.agent, event.tool)
            case Ended():
                telemetry.run_ended(run.agent, event.state)

    def lately(self, principal: str, tool: str) -> int:
        """Calls of the last minute, in this process."""
        return self._rates.count(principal, tool, time.monotonic())

    def children(self, parent: str) -> Progresses:
        """Sub-agents of a run that have not ended."""
        return [live.progress for live in self.live.values() if live.progress.parent == parent]

    def progress(self, run: str) -> Progress | None:
        """How far a run of this process has come."""
        live = self.live.get(run)
        return None if live is None else live.progress


def may(who: Principal, run: Progress) -> bool:
    return who.id == run.principal or "admin" in who.scopes


def _spawns(live: Live, name: str) -> bool:
    tool = live.tools.get(name)
    return tool is not None and tool.owner.startswith("agent:")


def _wants(run: Progress) -> None:
    if run.state != "input-required":
        raise ValueError(f"{run.run} asks nothing now: it is {run.state}")


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is(each, kind) for each in error.exceptions)
    return isinstance(error, kind)
