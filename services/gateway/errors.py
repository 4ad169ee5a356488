"""Errors as OpenAI words them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is answered with an error. Raised anywhere in the chain, worded once by `Explain`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers: Headers = [] if retry_after_s is None else [(b"retry-after", str(retry_after_s).encode())]

    @property
    def body(self) -> dict[str, Any]:
        return explain(self.status, self.message, code=self.code, param=self.param)


def explain(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error answer."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def reworded(status: int, body: bytes) -> dict[str, Any]:
    """An engine's error body in OpenAI's form. vLLM has class names for types, numbers for codes."""
    try:
        error = json.loads(body)["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = body.decode(errors="replace") or "the engine failed", None
    code = "engine_failed" if status >= 500 else None
    if "maximum context length" in message:
        code = "context_length_exceeded"
    return explain(status, message, code=code, param=param if isinstance(param, str) else None)


def status_in(body: bytes) -> int:
    """The HTTP status that vLLM writes into the `code` of an error in a stream; 500 if there is none."""
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return 500
    return code if isinstance(code, int) and 400 <= code < 600 else 500


async def send_json(send: Send, status: int, body: Any, headers: Headers | None = None) -> None:
    """Answer with one JSON document."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    await send_bytes(send, status, content, [(b"content-type", b"application/json"), *(headers or [])])


async def send_bytes(send: Send, status: int, content: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content})
