"""The blackboards on Ray: one small actor for the cluster, which any replica makes when it first needs it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import ObjectLostError, OwnerDiedError, RayActorError

from services.agents.memory.blackboard import Blackboards, Tree
from services.agents.memory.settings import BoardSettings

NAME, NAMESPACE = "blackboards", "trivium"


class BoardOwner(Blackboards):
    """The actor. What it puts into the object store is its own, whichever replica wrote it."""

    def __init__(self, settings: BoardSettings) -> None:
        super().__init__(settings, ray.put)


class RayBoards:
    """The actor, seen from a replica: `Boards`."""

    def __init__(self, settings: BoardSettings) -> None:
        self._settings = settings
        self._actor: Any = None

    async def put(self, tree: Tree, key: str, value: str, writer: str, operation: str) -> None:
        await self._ask("put", tree, key, value, writer, operation)

    async def get(self, tree: Tree, key: str) -> str | None:
        note = await self._ask("get", tree, key)
        if note is None or note.inline is not None:
            return note and note.inline
        try:
            return await note.reference
        except (ObjectLostError, OwnerDiedError):
            return None  # its node is gone

    async def list(self, tree: Tree) -> list[tuple[str, int, str]]:
        return await self._ask("list", tree)

    async def drop(self, tree: Tree) -> None:
        await self._ask("drop", tree)

    async def _ask(self, name: str, *question: Any) -> Any:
        for last in (False, True):
            if self._actor is None:
                self._actor = _actor(self._settings)
            try:
                return await getattr(self._actor, name).remote(*question)
            except RayActorError:
                # Ray starts it again, empty; one that was killed for good is made anew.
                self._actor = None
                if last:
                    raise
        raise AssertionError


def _actor(settings: BoardSettings) -> Any:
    owner: Any = ray.remote(BoardOwner)
    return owner.options(
        name=NAME,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        max_restarts=-1,
        max_task_retries=3,  # an operation is carried out once, however often it is sent
        num_cpus=0,
    ).remote(settings)
