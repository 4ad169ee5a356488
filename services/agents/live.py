"""One run in this process: its journal so far, and the task that works on it, if it does not wait."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

import msgspec

from cluster.auth import Principal
from cluster.log import LogUnavailable
from cluster.log.entries import decode, encode
from cluster.records import Step
from services.agents import journal
from services.agents.journal import Event, Progress, Rewarded
from services.agents.loop import Model
from services.agents.permits import Permits
from services.agents.tools import Caller, Toolbox

if TYPE_CHECKING:
    from services.agents.own import Own

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""How soon a step that could not be written is tried again: a run waits for room on the disk."""
_encode = msgspec.json.Encoder().encode


class Live:
    """What the loop works with (`loop.Desk`). A run that waits is this and nothing more: no task, no connection.

    The journal is kept as the log has it: a tenth of the objects' size, and nothing for the garbage collector to visit.
    """

    __slots__ = (
        "_changed",
        "_journal",
        "_own",
        "_packed",
        "_writing",
        "gate",
        "gone",
        "model",
        "permits",
        "progress",
        "task",
        "tools",
    )

    def __init__(self, own: Own, progress: Progress, steps: Iterable[Step], tools: Toolbox) -> None:
        self._own, self.progress, self.tools = own, progress, tools
        self._journal = [encode(step) for step in steps]
        self._packed = b""
        self.model: Model = own.model
        self.permits: Permits = own.permits
        self.task: asyncio.Task[None] | None = None
        self.gate = asyncio.Lock()
        """Held by whoever changes the run from outside."""
        self.gone = False
        """It is somebody else's by now."""
        self._writing = asyncio.Lock()
        self._changed: asyncio.Future[None] | None = None

    def since(self, number: int) -> list[Step]:
        """The steps of the journal from that number on."""
        found: list[Step] = []
        for payload in reversed(self._journal or _unpacked(self._packed)):
            step = decode(payload)
            if not isinstance(step, Step) or step.number < number:
                break
            found.append(step)
        return found[::-1]

    def pack(self) -> None:
        """Take little room: what the run needs to go on is in its journal."""
        if self._journal:
            self._packed = zlib.compress(b"\n".join(self._journal), 1)
            self._journal, self.progress.messages, self.progress.calls = [], [], []

    def unpack(self) -> None:
        """Be as before."""
        if self._packed:
            self._journal, self._packed = _unpacked(self._packed), b""
            whole = journal.fold(self.since(0))
            self.progress.messages, self.progress.calls = whole.messages, whole.calls

    async def write(self, *events: Event) -> None:
        """On disk, and then taken. A caller that is cancelled meanwhile learns it only after that: no number of the
        journal is ever used for two things."""
        async with self._writing:
            self.hold()
            self.unpack()
            cancelled, now, run = False, time.time(), self.progress
            payloads = [self._payload(number, now, event) for number, event in enumerate(events, run.number)]
            while True:
                waiter = self._own.writer.put(*payloads)
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
                logger.warning("run %s waits: %s", run.run, problem)
                await asyncio.sleep(RETRY_S)
            for number, event in enumerate(events, run.number):
                run.go_on(number, now, self._own.ownership.name, event)
                self._own.count(run, event)
            self._journal += payloads
            self.tell()
        if cancelled:
            raise asyncio.CancelledError

    def hold(self) -> None:
        self._own.ownership.check()

    def caller(self) -> Caller | None:
        run = self.progress
        who: Principal | None = self._own.principal(run.principal)
        if who is None:
            return None
        return Caller(run.principal, who.scopes, run.agent, run.version, run.run, run.thread)

    def lately(self, tool: str) -> int:
        return self._own.lately(self.progress.principal, tool)

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
        while True:
            for step in self.since(since):
                yield step
                since = step.number + 1
            if self.progress.number > since:
                continue  # it went on while the last step was taken
            if self.gone or self.progress.state != "working":
                return
            await self.changed()

    async def changed(self) -> None:
        """Returns when there is something new."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _payload(self, number: int, now: float, event: Event) -> bytes:
        """A step as the log has it. Not validated: every part is ours, and of the right type."""
        run = self.progress
        step = {
            "kind": "step",
            "schema_version": 1,
            "request_id": f"{run.run}/{number}",
            "time": now,
            "principal": run.principal,
            "session": run.thread,
            "run": run.run,
            "number": number,
            "agent": run.agent,
            "source": self._own.ownership.name,
            "event": event.NAME,
            "body": event,
        }
        if isinstance(event, Rewarded):
            step["score"] = event.score  # as `Step.score` has it: what the wheel turns by
        try:
            return _encode(step)
        except UnicodeEncodeError:  # half a surrogate pair, which JSON may carry and UTF-8 cannot
            return encode(Step.model_validate({**step, "body": msgspec.to_builtins(event)}))


def _unpacked(packed: bytes) -> list[bytes]:
    return zlib.decompress(packed).split(b"\n") if packed else []
