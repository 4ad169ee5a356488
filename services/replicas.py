"""What the replicas say: each one follows the decision log and tells which versions it holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.schema import ReplicaState

from cluster.hosting import GATEWAY
from cluster.registry import parse

logger = logging.getLogger(__name__)


class CannotLoad(ValueError):
    """A replica says that it cannot hold a version: waiting will not help."""


@dataclass(frozen=True)
class Heard:
    """What one application's replicas answered to `reconcile`."""

    application: str
    running: int
    """Replicas that Serve counts as running; one that is starting reads the decision log before it is."""
    replies: list[dict[str, Any]]


def lacking(gateways: Sequence[Heard], sequence: int, version: str | None) -> str | None:
    """What keeps the replicas from having followed decision `sequence` and holding `version`; None if nothing does.

    Raises `CannotLoad` if a replica says that it cannot.
    """
    for gateway in gateways:
        follow = [reply for reply in gateway.replies if reply["sequence"] >= sequence]
        if len(follow) < gateway.running:
            return f"{len(follow)} of {gateway.running} replicas of {gateway.application} answered"
    if version is None or parse(version)[1] == 0:
        return None  # the base itself: nothing to load
    if hosts(gateways, version):  # full weights with an application of their own
        for gateway in gateways:
            for reply in gateway.replies:
                if version in reply.get("unreached", ()):
                    return f"replica {reply['replica']} of {gateway.application} does not reach {version}"
        return None
    for gateway in gateways:
        for reply in gateway.replies:
            if reason := reply["errors"].get(version):
                raise CannotLoad(f"replica {reply['replica']} of {gateway.application} cannot load {version}: {reason}")
    # Applications of other bases need not hold it: they forward to one that does.
    held = any(g.replies and all(version in reply["versions"] for reply in g.replies) for g in gateways)
    return None if held else f"no application of the cluster holds {version} in all its replicas"


def hosts(gateways: Sequence[Heard], version: str) -> bool:
    """Whether an application has a version as its own weights, and a replica of it answers."""
    return any(reply["base"] == version for gateway in gateways for reply in gateway.replies)


async def ask(sequence: int, within_s: float) -> list[Heard]:
    """Have every replica of every gateway application follow the decision log, and hear what they hold."""
    status = await asyncio.to_thread(serve.status)
    gateways = [
        (application, name, deployment.replica_states.get(ReplicaState.RUNNING, 0))
        for application, overview in status.applications.items()
        for name, deployment in overview.deployments.items()
        if name.startswith(GATEWAY)
    ]
    return await asyncio.gather(*(_ask_one(*gateway, sequence, within_s) for gateway in gateways))


async def _ask_one(application: str, name: str, running: int, sequence: int, within_s: float) -> Heard:
    # The look-up blocks, so it goes to a thread; the broadcast must not: with Serve's throughput-optimized
    # settings a handle belongs to the loop that first uses it.
    try:
        handle = await asyncio.to_thread(serve.get_deployment_handle, name, application)
        answers = await handle.broadcast("reconcile", sequence).results_async(
            timeout_s=within_s, return_exceptions=True
        )
    except Exception as error:  # the application goes, comes, or hangs: no replies, and the caller asks again
        logger.warning("%s did not answer to decision %d: %r", application, sequence, error)
        return Heard(application, running, [])
    return Heard(application, running, [answer for answer in answers if isinstance(answer, dict)])
