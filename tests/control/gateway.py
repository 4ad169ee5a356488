"""A gateway without an engine: follows the decision log as the real one does, and its adapters are only checked."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ray import serve
from starlette.requests import Request

from cluster import models
from cluster.settings import Settings
from services.gateway.adapters import Adapters
from services.gateway.desired import Desired
from services.gateway.versions import Shelf

BASE, MOST_RANK = "tiny", 32


class Checked:
    """Takes whatever an engine of that rank could take."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def load(self, version: str) -> None:
        name, _, number = version.rpartition("@")
        await asyncio.to_thread(models.check_adapter, self._shelf.folder(name, int(number)), "some/model", MOST_RANK)

    async def unload(self, version: str) -> None:
        pass


@serve.deployment(name=f"Gateway:{BASE}", num_replicas=2, ray_actor_options={"num_cpus": 0}, health_check_period_s=1)
class Gateway:
    async def __init__(self) -> None:
        state = Settings.from_environment().state
        self._desired, self._adapters = Desired(state), Adapters(Checked(Shelf(state / "models")), 8)
        self._desired.refresh()
        await self.reconcile(-1)
        self._follow = asyncio.create_task(self._desired.follow(lambda: self.reconcile(-1), 0.25))

    async def reconcile(self, sequence: int) -> dict[str, Any]:
        await asyncio.to_thread(self._desired.refresh)
        await self._adapters.want([v for v in self._desired.rollout.wanted(BASE) if not v.endswith("@0")])
        return {
            "replica": serve.get_replica_context().replica_tag,
            "base": BASE,
            "sequence": self._desired.rollout.sequence,
            "versions": self._adapters.versions,
            "errors": self._adapters.errors,
        }

    async def __call__(self, request: Request) -> dict[str, Any]:
        alias = self._desired.rollout.aliases.get("assistant")
        return {"champion": alias and alias.champion, "versions": self._adapters.versions, "pid": os.getpid()}


app = Gateway.bind()  # type: ignore[attr-defined]
