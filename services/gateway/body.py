"""Reading a request's body: at most so many bytes, one JSON object."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.call import call_of
from services.gateway.errors import Refusal

MOST_NESTED = 64
"""Objects and lists inside of each other. vLLM takes schemas as deep as this; a schema in a schema is two levels."""

_ONE_KIND = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Gone(Exception):
    """The client hung up before its request was complete: nobody is left to answer."""


@dataclass(frozen=True)
class ReadBody:
    """Puts the body into the call."""

    app: ASGIApp
    most_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        try:
            call.raw = await self._read(call.headers, receive)
        except Gone:
            return
        call.body = parse(call.raw)
        await self.app(scope, receive, send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.most_bytes:
            raise self._too_large()
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.most_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self.most_bytes} bytes; send less", code="request_too_large")


def parse(raw: bytes) -> dict[str, Any]:
    """One JSON object, in UTF-8, nested at most so deep. Python's parser takes more than JSON has: refused."""
    if raw.count(b"{") + raw.count(b"[") > MOST_NESTED and _too_deep(raw):
        raise _nested()
    try:
        body = _DECODER.decode(raw.decode())
        if b"\\u" in raw:
            # An escape can name half of a surrogate pair, which no encoding takes: neither the log nor the engine.
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise _nested() from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON in UTF-8: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be a JSON object", code="invalid_json")
    return body


def _too_deep(raw: bytes) -> bool:
    """Whether objects and lists are nested deeper than allowed; no, if the brackets do not match: the parser says so.

    Without what is between quotes brackets alone are left, and each round takes the innermost away. Bytes as a whole
    rather than one by one: some 20 us for 6 KB of tools.
    """
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(_ONE_KIND, delete=_NO_BRACKETS)
    for _ in range(MOST_NESTED):
        brackets, before = brackets.replace(b"{}", b""), len(brackets)
        if len(brackets) == before:
            return False
    return bool(brackets)


def _nested() -> Refusal:
    return Refusal(400, f"the body is nested more than {MOST_NESTED} deep", code="invalid_json")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is too large for a number")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
