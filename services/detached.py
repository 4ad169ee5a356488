"""An actor of which the cluster has one: whichever replica first needs it makes it, and it outlives that replica."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

NAMESPACE = "trivium"


class Detached:
    """The actor, seen from a replica."""

    def __init__(self, kind: type, name: str, *given: Any, again: tuple[type[Exception], ...], **options: Any) -> None:
        self._kind, self._name, self._given, self._options = kind, name, given, options
        self._again = again
        """What is tried once more: it was idle and ended, or its node is gone, and there may be a new one."""
        self._actor: Any = None

    async def ask(self, method: str, *question: Any) -> Any:
        for last in (False, True):
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(self._find)  # asks GCS, and waits for it
                return await getattr(self._actor, method).remote(*question)
            except self._again:
                self._actor = None
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def _find(self) -> Any:
        actor: Any = ray.remote(self._kind)
        fixed = {"name": self._name, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
        return actor.options(**fixed, num_cpus=0, max_restarts=-1, **self._options).remote(*self._given)
