"""The runs of one process, and the way to those of all others: `Runs`, as everybody else knows it.

A thousand runs share one event loop and one writer, so many of their steps share an fsync. What a run is stands in its
journal; a process that dies leaves a lock that is free and journals without an end, and another process goes on with
them (`owners.py`). Any process answers for any run: the one that has it is asked, and for those that ended long ago the
log is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from cluster.auth import Principal
from cluster.log import Log
from cluster.records import Message, Step
from services.agents import journal, loop, owners
from services.agents.archive import WRITER, Archive
from services.agents.contract import ENDED, Agent, RunLimits, View
from services.agents.journal import Canceled, Claim, Ended, Heard, Progress, Rewarded, Start
from services.agents.live import Live
from services.agents.owners import NotOurs, Ownership
from services.agents.permits import Permits
from services.agents.stripes import Stripes
from services.agents.tools import Toolbox
from services.agents.within import within

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often owners look for those that died."""
PATIENCE_S = 10.0
"""Longest that somebody who wants something of a run waits for another process to take it over."""
WAIT_S = 20.0
"""Longest that one question of a follower waits in another process."""
REMEMBERED = 256
"""Runs that ended which a process still knows without the log."""
EARLIER = 16
"""Runs of a thread that the next one remembers."""
# Within `Pool`, `list` is something else.
Views = list[View]
Steps = list[Step]
Messages = list[Message]
Progresses = list[Progress]
_RUN = re.compile(r"run-[0-9a-f]{24}")


class Busy(RuntimeError):
    """Not now: 503. One sentence."""


class Peers(Protocol):
    """The processes that run agents, this one among them."""

    async def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What each says to `Pool.peer`; those that do not answer are left out."""


class Pool:
    """Implements `contract.Runs`."""

    def __init__(
        self,
        state: Path,
        agents: dict[str, Agent],
        tools: Toolbox,
        permits: Permits,
        model: loop.Model,
        principal: Callable[[str], Principal | None],
        *,
        log: Log,
        peers: Peers | None = None,
        most: int = 4096,
    ) -> None:
        self.model, self.permits, self.principal = model, permits, principal
        self._state, self._agents, self._peers, self._most = state, agents, peers, most
        everything = Toolbox([*tools, *within(self, agents)])
        self._tools = {name: everything.chosen(agent.tools) for name, agent in agents.items()}
        self._archive = Archive(log)
        self.writer = log.writer(WRITER)
        self.ownership = Ownership(state, self.writer.name)
        self._stripes = Stripes(state / "agents" / "ids")
        self._live: dict[str, Live] = {}
        self._over: OrderedDict[str, Live] = OrderedDict()
        self._lately: dict[tuple[str, str], deque[float]] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self._since = 0.0
        self.lost = False
        """Another process took this one for dead; it must end."""

    async def open(self) -> None:
        """Be an owner, and take over what others have left."""
        self._since = time.time()
        await asyncio.to_thread(self.ownership.open, self._since)
        await self._adopt()
        self._errand(self._watch())

    async def close(self) -> None:
        """Leave: what is not at its end goes on elsewhere, or here after the next start."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in [*tasks, *self._errands]:
            task.cancel()
        await asyncio.gather(*tasks, *self._errands, return_exceptions=True)
        await asyncio.to_thread(self.writer.close)
        await asyncio.to_thread(self.ownership.close, not self._live)

    # Runs

    def agents(self) -> dict[str, Agent]:
        return self._agents

    async def start(
        self,
        who: Principal,
        agent: str,
        task: str,
        *,
        thread: str | None = None,
        parent: str | None = None,
        limits: RunLimits | None = None,
        run: str | None = None,
    ) -> View:
        if agent not in self._agents:
            known = ", ".join(sorted(self._agents)) or "none"
            raise KeyError(f"there is no agent {agent}; there are: {known}")
        most = capped(self._agents[agent].limits, limits)
        if parent is not None:
            parent = (await self.get(who, parent)).id
        if run is None:
            return await self._begin(who, agent, task, thread, parent, most, f"run-{secrets.token_hex(12)}")
        known_as = _canonical(who, run)
        if (held := self._here(known_as)) is not None and _may(who, held.progress):
            return held.progress.view()
        async with self._stripes.hold(known_as):
            try:
                return await self.get(who, known_as)
            except KeyError:
                return await self._begin(who, agent, task, thread, parent, most, known_as)

    async def get(self, who: Principal, run: str) -> View:
        view = await self._somewhere("get", who, _canonical(who, run))
        if view is None:
            raise _unknown(run)
        return view

    async def list(self, who: Principal, agent: str | None = None, limit: int = 100) -> Views:
        answers = [self._list(who, agent), *await self._ask("list", who, agent)]
        found: dict[str, View] = {}
        for view in (view for views in answers for view in views):
            if view.id not in found or found[view.id].updated <= view.updated:
                found[view.id] = view
        if len(found) < limit:
            mine = None if "admin" in who.scopes else who.id
            for old in await asyncio.to_thread(self._archive.newest, mine, agent, limit):
                found.setdefault(old.run, old.view())
        return sorted(found.values(), key=lambda view: view.created, reverse=True)[:limit]

    async def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        known_as = _canonical(who, run)
        while True:
            steps: Sequence[Step]
            if (held := self._here(known_as)) is not None and _may(who, held.progress):
                async for step in held.follow(since):
                    since = step.number + 1
                    yield step
                if not held.gone:
                    return
                steps, over = (), False
            elif (answer := await self._ask_owner("wait", who, known_as, since)) is not None:
                steps, over = answer
            else:
                steps = await asyncio.to_thread(self._archive.run, known_as)
                progress = journal.fold(steps) if steps else None
                if progress is None or not _may(who, progress):
                    raise _unknown(run)
                over = progress.state != "working"
                if not over:
                    await asyncio.sleep(LOOK_S)
            for step in steps:
                if step.number >= since:
                    since = step.number + 1
                    yield step
            if over:
                return

    async def say(self, who: Principal, run: str, text: str) -> View:
        return await self._do("say", who, run, text)

    async def approve(self, who: Principal, run: str, approved: bool, result: str | None = None) -> View:
        return await self._do("approve", who, run, approved, result)

    async def cancel(self, who: Principal, run: str) -> View:
        return await self._do("cancel", who, run)

    async def reward(
        self, who: Principal, run: str, score: float, source: str = "user", comment: str | None = None
    ) -> View:
        """Say how good a run was, 0 to 1; who says so is `source` (environment, checker, user, judge)."""
        return await self._do("reward", who, run, score, source, comment)

    # What the processes ask each other

    async def peer(self, method: str, who: Principal, run: str | None, *arguments: Any) -> Any:
        """What this process knows or does about a run of its own; None if it has no such run."""
        if method == "list":
            return self._list(who, *arguments)
        live = self._here(run or "")
        if live is None or not _may(who, live.progress):
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
            await self.say(who, run.child, text)
            return run.view()
        if not run.free:
            raise ValueError(f"{run.run} wants a yes or no; approve or decline: {run.question}")
        return await self._heard(live, Heard(who.id, run.operation, text=text))

    async def _approve(self, live: Live, who: Principal, approved: bool, result: str | None) -> View:
        run = live.progress
        _wants(run)
        if run.child is not None:
            await self.approve(who, run.child, approved, result)
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
            known_as = _canonical(Principal(run.principal, ()), child)
            view = await self._somewhere("get", who, known_as, quick=True)
            if view is not None and view.state not in ENDED:
                await self._do("cancel", who, known_as)
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

    def _list(self, who: Principal, agent: str | None) -> Views:
        held = [*self._live.values(), *self._over.values()]
        return [
            live.progress.view() for live in held if agent in (None, live.progress.agent) and _may(who, live.progress)
        ]

    # Here or elsewhere

    def _here(self, run: str) -> Live | None:
        return self._live.get(run) or self._over.get(run)

    async def _do(self, method: str, who: Principal, run: str, *arguments: Any) -> View:
        """Have the owner of a run do something; one that has just died is given time to be replaced."""
        known_as, deadline = _canonical(who, run), time.monotonic() + PATIENCE_S
        while True:
            done = await self._ask_owner(method, who, known_as, *arguments)
            if done is not None:
                return done
            old = await self._archived(who, known_as)
            if old is None:
                raise _unknown(run)
            if old.ended:
                # Nobody needs to own it any more.
                return await self._done_late(method, who, known_as, old, *arguments)
            if time.monotonic() > deadline:
                raise Busy(f"nobody has taken {run} over yet; try again shortly")
            await asyncio.sleep(LOOK_S / 2)

    async def _done_late(self, method: str, who: Principal, run: str, old: Progress, *arguments: Any) -> View:
        """The same of a run that ended long ago."""
        self._remember(Live(self, old, await asyncio.to_thread(self._archive.run, run), Toolbox()))
        done = await self.peer(method, who, run, *arguments)
        if isinstance(done, ValueError):
            raise done
        return done

    async def _somewhere(self, method: str, who: Principal, run: str, quick: bool = False) -> View | None:
        if (view := await self._ask_owner(method, who, run)) is not None:
            return view
        old = await self._archived(who, run)
        return None if old is None else old.view()

    async def _archived(self, who: Principal, run: str) -> Progress | None:
        steps = await asyncio.to_thread(self._archive.run, run)
        progress = journal.fold(steps) if steps else None
        return progress if progress is not None and _may(who, progress) else None

    async def _ask_owner(self, method: str, who: Principal, run: str, *arguments: Any) -> Any:
        done = await self.peer(method, who, run, *arguments) if self._here(run) else None
        if done is None:
            done = next((answer for answer in await self._ask(method, who, run, *arguments)), None)
        if isinstance(done, ValueError):
            raise done
        return done

    async def _ask(self, method: str, who: Principal, *arguments: Any) -> Sequence[Any]:
        if self._peers is None:
            return ()
        if method == "list":
            arguments = (None, *arguments)
        return [answer for answer in await self._peers.ask(method, who, *arguments) if answer is not None]

    # Working on them

    async def _begin(
        self,
        who: Principal,
        agent: str,
        task: str,
        thread: str | None,
        parent: str | None,
        limits: RunLimits,
        run: str,
    ) -> View:
        if self.lost:
            raise Busy("this process was taken for dead and ends; try again shortly")
        if len(self._live) >= self._most:
            raise Busy(f"{self._most:,} runs are under way or wait for somebody here; try again when some have ended")
        progress = Progress(run, agent, who.id, thread or run)
        progress.owner = self.ownership.name
        live = Live(self, progress, [], self._tools[agent])
        self._live[run] = live
        try:
            earlier = await self._earlier(who, thread) if thread else []
            messages = self._opening(agent, earlier, task)
            await live.write(Start(task, messages, limits.model_dump(), parent))
        except BaseException:
            if not progress.number:
                del self._live[run]
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
        runs = await asyncio.to_thread(self._archive.thread, thread, who.id)
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
            self._live.pop(live.progress.run, None)
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
        for live in self._live.values():
            live.gone = True
            live.tell()
            if live.task is not None and live.task is not asyncio.current_task():
                live.task.cancel()
        self._live.clear()

    def _poke_parent(self, run: Progress) -> None:
        if run.parent is not None:
            self._errand(self._poke(run.parent, run.run, run.principal))

    async def _poke(self, parent: str, child: str, principal: str) -> None:
        await self._ask_owner("poke", Principal(principal, ()), parent, child)

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
            except NotOurs:
                self._leave()
            except Exception:  # a disk that is away: looked at again
                logger.exception("the owners of runs could not be looked at")

    async def _adopt(self) -> None:
        """Take over the runs of owners that died."""
        with ExitStack() as stack:
            found = await asyncio.to_thread(stack.enter_context, owners.orphans(self._state, self.ownership.name))
            for orphan in found:
                journals = await asyncio.to_thread(self._archive.unfinished, orphan.name, orphan.since)
                lives = [self._inherited(steps) for steps in journals]
                if orphan.since < self._since:  # whoever inherits from us must know before we have anything
                    self._since = orphan.since
                    await asyncio.to_thread(self.ownership.remember, self._since)
                await asyncio.gather(*(live.write(Claim(orphan.name)) for live in lives))
                self._live |= {live.progress.run: live for live in lives}
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
        view = await self._somewhere("get", Principal(live.progress.principal, ()), child)
        if view is None or view.state != "input-required":
            await self._poked(live, child)

    async def _note_oldest(self) -> None:
        oldest = min((live.progress.created or time.time() for live in self._live.values()), default=time.time())
        if oldest - self._since > 60:
            self._since = oldest
            await asyncio.to_thread(self.ownership.remember, oldest)

    # What policies count

    def note(self, principal: str, tool: str) -> None:
        self._lately.setdefault((principal, tool), deque()).append(time.monotonic())

    def lately(self, principal: str, tool: str) -> int:
        """Calls of the last minute, in this process."""
        calls = self._lately.get((principal, tool), deque())
        while calls and calls[0] < time.monotonic() - 60:
            calls.popleft()
        return len(calls)

    def children(self, parent: str) -> Progresses:
        """Sub-agents of a run that have not ended."""
        return [live.progress for live in self._live.values() if live.progress.parent == parent]

    def progress(self, run: str) -> Progress | None:
        """How far a run of this process has come."""
        live = self._live.get(run)
        return None if live is None else live.progress


def capped(own: RunLimits, asked: RunLimits | None) -> RunLimits:
    """The limits that were asked for. Raises `ValueError` if one is above the agent's own."""
    if asked is None:
        return own
    for name in asked.model_fields_set:
        if getattr(asked, name) > getattr(own, name):
            raise ValueError(f"limits.{name} is at most {getattr(own, name):g} for this agent")
    return own.model_copy(update={name: getattr(asked, name) for name in asked.model_fields_set})


def _canonical(who: Principal, run: str) -> str:
    """A run's id; for an id of a caller's choice that of this caller's run, so that nobody can take another's."""
    if _RUN.fullmatch(run):
        return run
    digest = hashlib.sha256("\0".join((who.id, run)).encode(errors="surrogatepass")).hexdigest()
    return f"run-{digest[:24]}"


def _may(who: Principal, run: Progress) -> bool:
    return who.id == run.principal or "admin" in who.scopes


def _spawns(live: Live, name: str) -> bool:
    tool = live.tools.get(name)
    return tool is not None and tool.owner.startswith("agent:")


def _unknown(run: str) -> KeyError:
    return KeyError(f"there is no run {run}")


def _wants(run: Progress) -> None:
    if run.state != "input-required":
        raise ValueError(f"{run.run} asks nothing now: it is {run.state}")


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_is(each, kind) for each in error.exceptions)
    return isinstance(error, kind)
