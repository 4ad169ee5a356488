"""Sending a request on to the application that serves its base: bytes pass, nothing is looked at or recorded here.

It goes through the cluster's own HTTP port, so that HAProxy balances it over the other application's replicas. The
other gateway authenticates and records it, under the same request id.
"""

from __future__ import annotations

import json
import time

import aiohttp
from starlette.types import Send

from services.gateway.behalf import BEHALF, sign
from services.gateway.call import Call
from services.gateway.edge import FORWARDED, ROUTED, forward_tag
from services.gateway.errors import Headers, Refusal

_PASSED = (b"authorization", b"content-type", b"accept", b"x-session-id", b"x-trivium-purpose", b"traceparent")
REACH_S = 0.5
"""Longest wait for an application to say that it is there."""
_OF_ONE_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server", b"x-request-id"))


class HttpForwarder:
    """Forwards to applications behind `address`, such as `http://127.0.0.1:8000`."""

    def __init__(self, address: str, mint_key: bytes) -> None:
        self._address, self._key = address, mint_key
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, call: Call, prefix: str, send: Send) -> None:
        headers = {name.decode(): call.headers[name].decode("latin-1") for name in _PASSED if name in call.headers}
        headers["x-request-id"] = call.request_id
        headers[FORWARDED.decode()] = forward_tag(self._key, call.request_id.encode()).decode()
        if call.behalf is not None:
            headers[BEHALF.decode()] = sign(self._key, call.behalf, time.time()).decode()
        if call.routed:
            headers[ROUTED.decode()] = json.dumps(call.routed)
        try:
            answer = await self._open().post(f"{self._address}{prefix}{call.path}", data=call.raw, headers=headers)
        except aiohttp.ClientError as error:
            raise _no_answer(prefix) from error
        async with answer:
            if answer.content_type not in ("application/json", "text/event-stream"):
                raise _no_answer(prefix)  # Serve's own plain-text 404, 500 or 503 while that application restarts
            await send({"type": "http.response.start", "status": answer.status, "headers": _kept(answer.raw_headers)})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def reaches(self, prefix: str | None) -> bool:
        """Whether the HAProxy that this gateway forwards through has a gateway behind `prefix`; None has none."""
        if prefix is None:
            return False
        try:
            timeout = aiohttp.ClientTimeout(total=REACH_S)
            async with self._open().get(f"{self._address}{prefix}/healthz", timeout=timeout) as answer:
                return answer.status == 200 and answer.content_type == "application/json"
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # on the first request: a session belongs to a running event loop
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            # A connection for each request: HAProxy ends idle ones at a reload, which an application that comes or goes
            # brings about, and a POST that meets such an end cannot be sent again.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, connector=connector)
        return self._session


def _no_answer(prefix: str) -> Refusal:
    message = f"the application at {prefix or '/'} does not answer; try again shortly"
    return Refusal(503, message, code="base_unavailable", param="model", retry_after_s=5)


def _kept(headers: tuple[tuple[bytes, bytes], ...]) -> Headers:
    return [(name.lower(), value) for name, value in headers if name.lower() not in _OF_ONE_HOP]
