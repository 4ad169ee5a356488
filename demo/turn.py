"""Watching from outside: `GET /admin/wheel` until a cycle has ended, `GET /admin/rollout` while a canary is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from demo.client import owner

ATTEMPTS = 3
"""How often the wheel tries a cycle that fails."""


@dataclass(frozen=True)
class Turn:
    """One cycle as the wheel reports it."""

    id: str
    done: bool
    step: str | None = None
    """The step at work."""
    steps_s: dict[str, float] = field(default_factory=dict)
    """Finished steps and how long each took."""
    outcome: str | None = None
    candidate: str | None = None
    verdict: dict[str, Any] | None = None
    error: str | None = None
    hopeless: bool = False
    """It failed, and the wheel will not take it up again."""

    @classmethod
    def read(cls, run: dict[str, Any]) -> Self:
        """From a run's record (`runs/ID/run.json`, which the wheel hands on)."""
        steps: dict[str, dict[str, Any]] = run.get("steps") or {}
        return cls(
            id=run["id"],
            done=run["state"] == "done",
            step=next((name for name, step in steps.items() if step["state"] == "running"), None),
            steps_s={name: float(seconds) for name, seconds in (run.get("timings_s") or {}).items()},
            outcome=run.get("outcome"),
            candidate=run.get("candidate"),
            verdict=run.get("verdict"),
            error=run.get("error"),
            hopeless=run["state"] == "failed" and (not run["resumable"] or run["attempts"] >= ATTEMPTS),
        )


@dataclass(frozen=True)
class Wheel:
    """What the wheel says of itself."""

    on: bool
    turn: Turn | None
    """The cycle that runs, else the last one."""
    reason: str
    """Why it turns, or why it does not."""
    fresh: int = 0
    """Answers with feedback that no cycle has seen."""
    min_feedback: int = 1
    """So many of them start a cycle."""

    @classmethod
    def read(cls, state: dict[str, Any]) -> Self:
        """From the answer of `GET /admin/wheel`."""
        turn = Turn.read(state["run"]) if state["run"] else None
        return cls(state["on"], turn, state["reason"], state["fresh"], state["min_feedback"])


class Watch:
    """Follows the wheel over HTTP with the owner's key."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._client = owner(base_url, api_key, timeout_s=30)

    async def look(self) -> Wheel:
        response = await self._client.get("/admin/wheel")
        if response.status_code != 200:
            raise ValueError(f"the wheel answered {response.status_code}: {response.text[:200]}; see `trivium status`")
        return Wheel.read(response.json())

    async def champion(self, alias: str) -> str:
        return (await self._alias(alias))["champion"]

    async def canary(self, alias: str) -> dict[str, Any] | None:
        """The canary that runs: its share and what was seen of it; None if there is none."""
        return (await self._alias(alias))["canary"]

    async def judged(self, alias: str, sessions: int, patience_s: float = 30) -> dict[str, Any] | None:
        """The canary, once it has counted so many sessions; None as soon as it has been decided."""
        deadline = time.monotonic() + patience_s
        while (canary := await self.canary(alias)) is not None and time.monotonic() < deadline:
            seen = canary.get("evidence") or {"candidate_sessions": 0, "champion_sessions": 0}
            if seen["candidate_sessions"] + seen["champion_sessions"] >= sessions:
                break
            await asyncio.sleep(0.5)
        return canary

    async def _alias(self, alias: str) -> dict[str, Any]:
        response = await self._client.get("/admin/rollout")
        response.raise_for_status()
        return response.json()["aliases"][alias]

    async def next_turn(self, known: str | None, patience_s: float, seen: Callable[[Wheel], None]) -> Turn:
        """Wait for a turn other than `known` to end. Raises `ValueError` when it fails or does not come in time."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            try:
                wheel = await self.look()
            except httpx.TransportError:
                # The wheel may be restarting; it survives its own death, so the next look finds it.
                await asyncio.sleep(1)
                continue
            seen(wheel)
            if wheel.turn and wheel.turn.id != known:
                if wheel.turn.hopeless:
                    raise ValueError(f"cycle {wheel.turn.id} failed {ATTEMPTS} times: {wheel.turn.error}")
                if wheel.turn.done:
                    return wheel.turn
            await asyncio.sleep(0.5)
        raise ValueError(
            f"the wheel did not turn within {patience_s / 60:.0f} minutes; `trivium status` says where it stands"
        )

    async def close(self) -> None:
        await self._client.aclose()
