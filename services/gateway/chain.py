"""The gateway's wiring, on one screen. Pure ASGI: it runs the same around any engine's app, in any server class.

edge (around Serve) -> lobby -> explain -> authenticate -> doors
    -> admit -> purpose -> limit -> body -> restrict -> route -> weigh -> record -> engine
                                                            '-> weigh -> record -> engine, unseen (a canary's shadow)
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import Keys
from cluster.pressure import Gauge
from services.gateway.adapters import Adapters
from services.gateway.body import ReadBody
from services.gateway.bounds import Bounds
from services.gateway.call import Link, fold
from services.gateway.desired import Desired
from services.gateway.doors import Admit, Authenticate, Door, Doors, Explain, Lobby, Purpose
from services.gateway.edge import MARK
from services.gateway.engine import EngineDoor
from services.gateway.errors import send_json
from services.gateway.feedback import TakeFeedback
from services.gateway.keeper import Keeper
from services.gateway.limits import Limit, Meter
from services.gateway.load import Weigh
from services.gateway.models import Models
from services.gateway.parameters import CHAT, COMPLETIONS, RESPONSES, Restrict
from services.gateway.record import Recorder
from services.gateway.route import Forwarder, Route
from services.gateway.shadow import Shadows
from services.gateway.versions import Shelf

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What the links work with."""

    served: str
    """Id of what the engine's own weights are: a base, or a full-weight version."""
    keys: Keys
    mint_key: bytes
    desired: Desired
    shelf: Shelf
    adapters: Adapters
    forward: Forwarder
    keeper: Keeper
    meter: Meter
    bounds: Bounds = field(default_factory=Bounds)
    gauge: Gauge = field(default_factory=Gauge)
    most_bytes: int = 4 * 2**20
    most_ongoing: int = 1024
    most_shadows: int = 8
    shared_prefix_cache: bool = False


def chain(engine: ASGIApp, parts: Parts) -> ASGIApp:
    """The engine's app behind the gateway."""
    salt_key = None if parts.shared_prefix_cache else parts.mint_key
    record: Link = partial(Recorder, keeper=parts.keeper)
    answer = fold(engine, [partial(Weigh, gauge=parts.gauge), record, partial(EngineDoor, salt_key=salt_key)])
    read: Link = partial(ReadBody, most_bytes=parts.most_bytes)
    route: Link = partial(
        Route,
        served=parts.served,
        desired=parts.desired,
        shelf=parts.shelf,
        adapters=parts.adapters,
        forward=parts.forward,
        shadows=Shadows(answer, parts.served, parts.adapters, parts.forward, parts.mint_key, parts.most_shadows),
    )
    infer = fold(
        answer,
        [
            partial(Admit, most=parts.most_ongoing),
            Purpose,
            partial(Limit, meter=parts.meter),
            read,
            partial(Restrict, bounds=parts.bounds),
            route,
        ],
    )
    models = Models(parts.served, parts.desired, parts.shelf, since=int(time.time()))
    doors = Doors(
        {
            CHAT: Door("POST", "infer", infer),
            COMPLETIONS: Door("POST", "infer", infer),
            RESPONSES: Door("POST", "infer", infer),
            "/v1/models": Door("GET", "infer", models),
            "/v1/models/": Door("GET", "infer", models),
            "/v1/feedback": Door("POST", "feedback", fold(TakeFeedback(parts.keeper, parts.mint_key), [read])),
            "/healthz": Door("GET", None, _alive),
        }
    )
    http = fold(doors, [Explain, partial(Authenticate, keys=parts.keys, open_paths=frozenset({"/healthz"}))])
    return Lobby(http, engine)


async def _alive(scope: Scope, receive: Receive, send: Send) -> None:
    """Says that the gateway answers, and nothing else."""
    await send_json(send, 200, {"status": "ok"})


async def prove_closed(app: ASGIApp) -> None:
    """Knock without a key, and on a path of the engine's own. Raises `RuntimeError` unless the gateway turns both away.

    This is a test of what runs, not of how it was built: an application that was put together by another ingress, or in
    which somebody replaced the app, fails it and never becomes ready.
    """
    for path, mark, status in (
        ("/v1/chat/completions", True, 401),
        ("/tokenize", True, 401),
        ("/v1/models", False, 503),
    ):
        seen = await _knock(app, path, mark)
        if seen != status:
            raise RuntimeError(
                f"refusing to serve: {path} answers {seen} without a key; the gateway's chain is not in place"
            )


async def _knock(app: ASGIApp, path: str, mark: bool) -> int:
    seen = 0
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    scope |= {"http_version": "1.1", "scheme": "http", "server": None, "client": None, "raw_path": path.encode()}
    if mark:
        scope[MARK] = ("req-knock", False)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal seen
        seen = message.get("status", seen)

    try:
        await app(scope, receive, send)
    except Exception:
        logger.exception("an app that is no gateway failed on a knock")
    return seen
