"""The chain's innermost link: what the engine's own app gets to see of a request."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.call import call_of, replay
from services.gateway.parameters import engine_body


@dataclass(frozen=True)
class EngineDoor:
    """Hands over a request made anew: the restricted body, our id, and none of the caller's headers."""

    app: ASGIApp
    salt_key: bytes | None
    """Secret that keeps the prefix caches of principals apart; None: they share one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        given = engine_body(call, scope["trivium.served"])
        if self.salt_key is not None:
            given["cache_salt"] = salt(self.salt_key, call.principal.id)
        body = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
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


@lru_cache(maxsize=1024)
def salt(key: bytes, principal: str) -> str:
    """What vLLM mixes into the hash of a prompt's blocks (`cache_salt`, taken by all three endpoints).

    Without it, one principal could tell from the time to the first token what another one has asked before.
    """
    return hmac.new(key, b"cache:" + principal.encode(), hashlib.sha256).hexdigest()[:32]
