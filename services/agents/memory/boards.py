"""The blackboards on Ray: one small actor for the cluster, which any replica makes when it first needs it."""

from __future__ import annotations

import asyncio
import time

import ray
from ray.exceptions import ObjectLostError, OwnerDiedError, RayActorError

from services.agents.memory.blackboard import Blackboards, Note, Tree
from services.agents.memory.settings import BoardSettings
from services.detached import Detached

NAME = "blackboards"
IDLE_S = 600.0
"""An actor without boards that nobody has asked for so long ends; the next question makes a new one."""


class BoardOwner:
    """The actor. What it puts into the object store is its own, whichever replica wrote it."""

    def __init__(self, settings: BoardSettings) -> None:
        self._boards = Blackboards(settings, ray.put)
        self._asked = time.monotonic()
        self._watch: asyncio.Task[None] | None = None

    async def put(self, tree: Tree, key: str, value: str, writer: str, operation: str) -> str | None:
        """Why it was refused, if it was: an exception would arrive as a traceback."""
        try:
            self._awake().put(tree, key, value, writer, operation)
        except ValueError as error:
            return str(error)
        return None

    async def get(self, tree: Tree, key: str) -> Note | None:
        return self._awake().get(tree, key)

    async def list(self, tree: Tree) -> list[tuple[str, int, str]]:
        return self._awake().list(tree)

    async def drop(self, tree: Tree) -> None:
        self._awake().drop(tree)

    def _awake(self) -> Blackboards:
        self._asked = time.monotonic()
        if self._watch is None:  # not in the constructor: that has no event loop yet
            self._watch = asyncio.create_task(self._end_when_idle())
        return self._boards

    async def _end_when_idle(self) -> None:
        while self._boards.expire() or time.monotonic() - self._asked < IDLE_S:
            await asyncio.sleep(IDLE_S / 10)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


class RayBoards:
    """The actor, seen from a replica: `Boards`."""

    def __init__(self, settings: BoardSettings) -> None:
        # An operation is carried out once, however often it is sent.
        self._actor = Detached(BoardOwner, NAME, settings, again=(RayActorError,), max_task_retries=3)

    async def put(self, tree: Tree, key: str, value: str, writer: str, operation: str) -> None:
        if refusal := await self._actor.ask("put", tree, key, value, writer, operation):
            raise ValueError(refusal)

    async def get(self, tree: Tree, key: str) -> str | None:
        note = await self._actor.ask("get", tree, key)
        if note is None or note.reference is None:
            return note and note.inline
        try:
            return await note.reference
        except (ObjectLostError, OwnerDiedError):
            return None  # its node, or the actor, is gone

    async def list(self, tree: Tree) -> list[tuple[str, int, str]]:
        return await self._actor.ask("list", tree)

    async def drop(self, tree: Tree) -> None:
        await self._actor.ask("drop", tree)
