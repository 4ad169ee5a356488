"""All runs of the cluster, from any of its processes: `Runs`, as everybody else knows it.

The process that has a run is asked (`own.py`); for those that ended long ago, or whose process has just died, the log
is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

from cluster.auth import Principal
from cluster.log import Log
from cluster.records import Step
from services.agents import journal, loop
from services.agents.contract import Agent, Busy, Order, RunLimits, View
from services.agents.journal import Progress
from services.agents.own import LOOK_S, Own, may
from services.agents.permits import Permits
from services.agents.stripes import Stripes
from services.agents.tools import Toolbox
from services.agents.within import within

PATIENCE_S = 10.0
"""Longest that somebody who wants something of a run waits for another process to take it over."""
_THREAD = re.compile(r"[!-~]{1,256}")
"""It is a header too, `x-session-id`."""
_RUN = re.compile(r"run-[0-9a-f]{24}")


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
        self._agents, self._peers = agents, peers
        self.own = Own(state, agents, self._with_ours(tools), permits, model, principal, log, self, most)
        self._stripes = Stripes(state / "agents" / "ids")

    def equip(self, tools: Toolbox) -> None:
        """Give runs that begin from now on other tools."""
        self.own.equip(self._with_ours(tools))

    def _with_ours(self, tools: Toolbox) -> Toolbox:
        return Toolbox([*tools, *within(self, self._agents)])

    async def open(self) -> None:
        """Be an owner, and take over what others have left."""
        await self.own.open()

    async def close(self) -> None:
        """Leave: what is not at its end goes on elsewhere, or here after the next start."""
        await self.own.close()

    async def peer(self, method: str, who: Principal, run: str | None, *arguments: Any) -> Any:
        """What another process asks this one."""
        return await self.own.peer(method, who, run, *arguments)

    # Runs

    async def agents(self) -> dict[str, Agent]:
        return self._agents

    async def start(self, who: Principal, agent: str, task: str, **order: Unpack[Order]) -> View:
        if agent not in self._agents:
            known = ", ".join(sorted(self._agents)) or "none"
            raise KeyError(f"there is no agent {agent}; there are: {known}")
        if (thread := order.get("thread")) is not None and not _THREAD.fullmatch(thread):
            raise ValueError("a thread's name is up to 256 visible ASCII characters, without spaces")
        most = capped(self._agents[agent].limits, order.get("limits"))
        if (parent := order.get("parent")) is not None:
            parent = (await self.get(who, parent)).id
        order = {**order, "limits": most, "parent": parent}
        if (run := order.get("run")) is None:
            return await self.own.begin(who, agent, task, f"run-{secrets.token_hex(12)}", order)
        known_as = _canonical(who, run)
        if (held := self.own.here(known_as)) is not None and may(who, held.progress):
            return held.progress.view()
        async with self._stripes.hold(known_as):
            try:
                return await self.get(who, known_as)
            except KeyError:
                return await self.own.begin(who, agent, task, known_as, order)

    async def get(self, who: Principal, run: str) -> View:
        view = await self._somewhere("get", who, _canonical(who, run))
        if view is None:
            raise _unknown(run)
        return view

    async def list(self, who: Principal, agent: str | None = None, limit: int = 100) -> list[View]:
        answers = [self.own.list(who, agent), *await self._ask("list", who, agent)]
        found: dict[str, View] = {}
        for view in (view for views in answers for view in views):
            if view.id not in found or found[view.id].updated <= view.updated:
                found[view.id] = view
        if len(found) < limit:
            mine = None if "admin" in who.scopes else who.id
            for old in await asyncio.to_thread(self.own.archive.newest, mine, agent, limit):
                found.setdefault(old.run, old.view())
        return sorted(found.values(), key=lambda view: view.created, reverse=True)[:limit]

    async def follow(self, who: Principal, run: str, since: int = 0) -> AsyncIterator[Step]:
        known_as = _canonical(who, run)
        while True:
            steps: Sequence[Step]
            if (held := self.own.here(known_as)) is not None and may(who, held.progress):
                async for step in held.follow(since):
                    since = step.number + 1
                    yield step
                if not held.gone:
                    return
                steps, over = (), False
            elif (answer := await self._ask_owner("wait", who, known_as, since)) is not None:
                steps, over = answer
            else:
                steps = await asyncio.to_thread(self.own.archive.run, known_as)
                progress = journal.fold(steps) if steps else None
                if progress is None or not may(who, progress):
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

    # What runs need of each other

    async def look(self, who: Principal, run: str) -> View | None:
        """A run, if there is one."""
        return await self._somewhere("get", who, _canonical(who, run))

    async def poke(self, parent: str, child: str, principal: str) -> None:
        """Tell a run that a sub-agent of it goes on, or has ended."""
        await self._ask_owner("poke", Principal(principal, ()), parent, child)

    # Here or elsewhere

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
        self.own.recall(old, await asyncio.to_thread(self.own.archive.run, run))
        done = await self.peer(method, who, run, *arguments)
        if isinstance(done, ValueError):
            raise done
        return done

    async def _somewhere(self, method: str, who: Principal, run: str) -> View | None:
        if (view := await self._ask_owner(method, who, run)) is not None:
            return view
        old = await self._archived(who, run)
        return None if old is None else old.view()

    async def _archived(self, who: Principal, run: str) -> Progress | None:
        steps = await asyncio.to_thread(self.own.archive.run, run)
        progress = journal.fold(steps) if steps else None
        return progress if progress is not None and may(who, progress) else None

    async def _ask_owner(self, method: str, who: Principal, run: str, *arguments: Any) -> Any:
        done = await self.peer(method, who, run, *arguments) if self.own.here(run) else None
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


def _unknown(run: str) -> KeyError:
    return KeyError(f"there is no run {run}")
