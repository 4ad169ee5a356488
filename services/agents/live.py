"""One run in this process: its journal so far, and the task that works on it, if it does not wait."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cluster.auth import Principal
from cluster.log import LogUnavailable
from cluster.log.entries import decode, encode
from cluster.records import Step
from services.agents import journal
from services.agents.journal import Called, Event, Progress
from services.agents.loop import Model
from services.agents.permits import Permits
from services.agents.tools import Caller, Toolbox

if TYPE_CHECKING:
    from services.agents.run import Pool

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""How soon a step that could not be written is tried again: a run waits for room on the disk."""
_FIELDS = set(Step.model_fields)


class Live:
    """What the loop works with (`loop.Desk`). A run that waits is this and nothing more: no task, no connection."""

    __slots__ = (
        "_changed",
        "_packed",
        "_pool",
        "_steps",
        "_writing",
        "gate",
        "gone",
        "model",
        "permits",
        "progress",
        "task",
        "tools",
    )

    def __init__(self, pool: Pool, progress: Progress, steps: list[Step], tools: Toolbox) -> None:
        self._pool, self.progress, self._steps, self.tools = pool, progress, steps, tools
        self._packed: bytes | None = None
        self.model: Model = pool.model
        self.permits: Permits = pool.permits
        self.task: asyncio.Task[None] | None = None
        self.gate = asyncio.Lock()
        """Held by whoever changes the run from outside."""
        self.gone = False
        """It is somebody else's by now."""
        self._writing = asyncio.Lock()
        self._changed: asyncio.Future[None] | None = None

    @property
    def steps(self) -> list[Step]:
        """The journal so far."""
        return self._steps if self._packed is None else _unpacked(self._packed)

    def pack(self) -> None:
        """Take little room: what the run needs to go on is in its journal."""
        if self._packed is None:
            self._packed = zlib.compress(b"\n".join([encode(step) for step in self._steps]), 1)
            self._steps, self.progress.messages, self.progress.calls = [], [], []

    def unpack(self) -> None:
        """Be as before."""
        if self._packed is not None:
            self._steps, self._packed = _unpacked(self._packed), None
            whole = journal.fold(self._steps)
            self.progress.messages, self.progress.calls = whole.messages, whole.calls

    async def write(self, *events: Event) -> None:
        """On disk, and then taken. A caller that is cancelled meanwhile learns it only after that: no number of the
        journal is ever used for two things."""
        async with self._writing:
            self.hold()
            self.unpack()
            cancelled = False
            steps = self._as_steps(events)
            while True:
                waiter = self._pool.writer.put(*steps)
                while not waiter.done():
                    try:
                        await asyncio.shield(waiter)
                    except asyncio.CancelledError:
                        cancelled = True
                    except LogUnavailable:
                        break
                problem = waiter.exception()
                if problem is None:
                    break
                if cancelled:
                    raise asyncio.CancelledError
                if not isinstance(problem, LogUnavailable):
                    raise problem
                logger.warning("run %s waits: %s", self.progress.run, problem)
                await asyncio.sleep(RETRY_S)
            for step, event in zip(steps, events, strict=True):
                self.progress.take(step, event)
                if isinstance(event, Called):
                    self._pool.note(step.principal, event.tool)
            self._steps += steps
            self.tell()
        if cancelled:
            raise asyncio.CancelledError

    def hold(self) -> None:
        self._pool.ownership.check()

    def caller(self) -> Caller | None:
        run = self.progress
        who: Principal | None = self._pool.principal(run.principal)
        if who is None:
            return None
        return Caller(run.principal, who.scopes, run.agent, run.version, run.run, run.thread)

    def lately(self, tool: str) -> int:
        return self._pool.lately(self.progress.principal, tool)

    def tell(self) -> None:
        """Wake whoever follows."""
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None

    async def stop(self) -> None:
        """End its task, wherever it stands; the journal says where that was."""
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
        self.task = None

    async def follow(self, since: int) -> AsyncIterator[Step]:
        """Its steps from number `since` on, until it ends, waits, or is somebody else's."""
        place = next((place for place, step in enumerate(self.steps) if step.number >= since), len(self.steps))
        while True:
            for step in self.steps[place:]:
                yield step
                place += 1
            if self.gone or self.progress.state != "working":
                return
            await self.changed()

    async def changed(self) -> None:
        """Returns when there is something new."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _as_steps(self, events: tuple[Event, ...]) -> list[Step]:
        run, now = self.progress, time.time()
        return [
            # Not validated: every part is ours, and of the right type.
            Step.model_construct(
                _FIELDS,
                kind="step",
                schema_version=1,
                request_id=f"{run.run}/{number}",
                time=now,
                principal=run.principal,
                session=run.thread,
                run=run.run,
                number=number,
                agent=run.agent,
                source=self._pool.ownership.name,
                event=journal.name(event),
                body=journal.body(event),
            )
            for number, event in enumerate(events, run.number)
        ]


def _unpacked(packed: bytes) -> list[Step]:
    entries = map(decode, zlib.decompress(packed).split(b"\n"))
    return [entry for entry in entries if isinstance(entry, Step)]
