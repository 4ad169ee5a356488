"""Desired state, as replicas see it: the decision log, and which application serves what. Files, never a service.

A replica therefore keeps serving the last known state when the rollout service, MLflow or the controller is away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from cluster import decisions
from cluster.auth import write_private
from cluster.decisions import Alias, Rollout
from cluster.records import Decision

logger = logging.getLogger(__name__)


class Desired:
    """The fold of the decision log, and the table of routes, both kept fresh by `follow`."""

    def __init__(self, state: Path, default: Alias | None = None) -> None:
        self._state = state
        self._log: list[Decision] = []
        self._default = default
        self._routes_stamp = 0
        self._reading = threading.Lock()
        self.rollout = self._fold()
        self.routes: dict[str, str] = {}

    def refresh(self) -> bool:
        """Read what is new. True if the decision log went on."""
        with self._reading:  # a poll and a broadcast may come together, each in a thread of its own
            self._refresh_routes()
            new = decisions.read(self._state, self.rollout.sequence)
            if new:
                self._log += new
                self.rollout = self._fold()
            return bool(new)

    async def follow(self, changed: Callable[[], Awaitable[object]], every_s: float) -> None:
        """Poll for ever: one `stat` for the next decision's name and one for the table of routes.

        Off the event loop, because a shared disk may make even a `stat` wait. A poll that fails is told and tried
        again: the last known state goes on serving.
        """
        while True:
            await asyncio.sleep(every_s)
            try:
                if await asyncio.to_thread(self.refresh):
                    await changed()
            except Exception:
                logger.exception("desired state could not be read; the last known state goes on serving")

    def publish(self, served: str, prefix: str) -> None:
        """Tell the other applications that this one serves `served`."""
        write_private(_route(self._state, served), json.dumps({"served": served, "prefix": prefix}).encode())

    def _refresh_routes(self) -> None:
        folder = self._state / "serving"
        try:
            stamp = os.stat(folder).st_mtime_ns
        except FileNotFoundError:
            return
        if stamp != self._routes_stamp:  # files are replaced by rename, so every change touches the folder
            entries = []
            for path in sorted(folder.glob("[!.]*.json")):
                with suppress(FileNotFoundError):  # withdrawn at this moment
                    entries.append(json.loads(path.read_text()))
            self.routes = {entry["served"]: entry["prefix"].rstrip("/") for entry in entries}
            self._routes_stamp = stamp

    def _fold(self) -> Rollout:
        rollout = decisions.fold(self._log)
        if self._default and self._default.name not in rollout.aliases:
            rollout.aliases[self._default.name] = self._default
        return rollout


def withdraw(state: Path, served: str) -> None:
    """Tell everybody that no application serves `served` any more."""
    _route(state, served).unlink(missing_ok=True)


def _route(state: Path, served: str) -> Path:
    return state / "serving" / f"{quote(served, safe='')}.json"
