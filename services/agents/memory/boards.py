"""The blackboards on Ray: one small actor for the cluster, which any replica makes when it first needs it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OwnerDiedError, RayActorError

from services.agents.memory.blackboard import Blackboards, Note, Tree
from services.agents.memory.settings import BoardSettings

NAME, NAMESPACE = "blackboards", "trivium"
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
        self._settings = settings
        self._actor: Any = None

    async def put(self, tree: Tree, key: str, value: str, writer: str, operation: str) -> None:
        if refusal := await self._ask("put", tree, key, value, writer, operation):
            raise ValueError(refusal)

    async def get(self, tree: Tree, key: str) -> str | None:
        note = await self._ask("get", tree, key)
        if note is None or note.reference is None:
            return note and note.inline
        try:
            return await note.reference
        except (ObjectLostError, OwnerDiedError):
            return None  # its node, or the actor, is gone

    async def list(self, tree: Tree) -> list[tuple[str, int, str]]:
        return await self._ask("list", tree)

    async def drop(self, tree: Tree) -> None:
        await self._ask("drop", tree)

    async def _ask(self, name: str, *question: Any) -> Any:
        for last in (False, True):
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(_find, self._settings)  # asks GCS, and waits for it
                return await getattr(self._actor, name).remote(*question)
            except RayActorError:
                self._actor = None  # it was idle and ended, or its node is gone: there may be a new one
                if last:
                    raise


def _find(settings: BoardSettings) -> Any:
    """The cluster's actor; makes it if there is none. It outlives the replica that made it."""
    return (
        ray.remote(BoardOwner)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=3,  # an operation is carried out once, however often it is sent
        )
        .remote(settings)
    )
