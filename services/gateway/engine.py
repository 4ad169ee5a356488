"""The chain's innermost link: what the engine's own app gets to see of a request."""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.call import call_of, replay
from services.gateway.parameters import engine_body


@dataclass(frozen=True)
class EngineDoor:
    """Hands over a request made anew: the restricted body, our id, and none of the caller's headers."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        body = json.dumps(
            engine_body(call, scope["trivium.served"]), ensure_ascii=False, separators=(",", ":")
        ).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", call.request_id.encode()),
        ]
        inner = {
            **scope,
            "path": call.path,
            "raw_path": call.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
        }
        await self.app(inner, replay(body, receive), send)
