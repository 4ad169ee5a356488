"""What applications beside the gateway have in common: keys with a scope, small bodies, errors in OpenAI's words."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import Keys
from cluster.settings import Settings

MOST_BYTES = 1 << 20
ON_HEAD = {"node:__internal_head__": 0.001}
"""Ray's resource that the head's machine alone has: for an application that asks the dashboard, on loopback there."""

_TYPES = {401: "authentication_error", 403: "permission_error"}


class Unavailable(Exception):
    """The request is fine, the cluster is not ready for it: 503. One sentence, for the caller."""


def admin_api() -> FastAPI:
    """What `/admin/*` is made of: only for admin keys."""
    return keyed_api("admin")


def keyed_api(needs: str) -> FastAPI:
    """A FastAPI application for keys with the scope `needs`, or `admin`. Its handlers raise `ValueError` (409) or
    `Unavailable` (503) with one sentence.

    `request.state.principal` is the id of the key that asked, `request.state.who` all that is known of it.
    """
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    api.add_middleware(Door, needs=needs)
    api.add_exception_handler(ValueError, _conflict)
    api.add_exception_handler(Unavailable, _unavailable)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _failed)
    return api


class Door:
    """Before anything of the body is read: who asks, and how much is coming."""

    def __init__(self, app: ASGIApp, needs: str = "admin") -> None:
        self._app, self._needs = app, needs
        self._keys = Keys(Settings.from_environment().state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if (refusal := self._refuse(scope, headers)) is not None:
            await refusal(scope, receive, send)
            return
        if scope["path"] == scope.get("root_path", ""):  # `/admin/rollout` itself: routes begin with a slash
            scope["path"] += "/"
        await self._app(scope, receive, send)

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> JSONResponse | None:
        who = self._keys.authenticate(headers.get("authorization"))
        if who is None:
            return error(401, "no valid API key: send `Authorization: Bearer KEY`", "invalid_api_key")
        if not {self._needs, "admin"} & set(who.scopes):
            message = f"the key of {who.id} has no {self._needs} scope; ask with one that has"
            return error(403, message, "missing_scope")
        scope.setdefault("state", {}).update(principal=who.id, who=who)
        if scope["method"] == "POST" and not headers.get("content-length", "").isdigit():
            return error(411, "the request needs a Content-Length", "length_required")
        if int(headers.get("content-length") or 0) > MOST_BYTES:
            return error(413, f"the body is larger than {MOST_BYTES} bytes; send less", "request_too_large")
        return None


def error(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
    """An answer in OpenAI's error format."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


async def _conflict(request: Request, problem: Any) -> JSONResponse:
    return error(409, str(problem), "conflict")


async def _unavailable(request: Request, problem: Any) -> JSONResponse:
    answer = error(503, str(problem), "unavailable")
    answer.headers["retry-after"] = "1"
    return answer


async def _invalid(request: Request, problem: Any) -> JSONResponse:
    first = problem.errors()[0]
    # FastAPI names the place ("body", "alias"); a body that is no JSON has only a position in it.
    param = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str)) or None
    return error(400, f"{param or 'the body'}: {first['msg']}", "invalid_request", param)


async def _http(request: Request, problem: Any) -> JSONResponse:
    return error(problem.status_code, f"{request.method} {request.url.path}: {problem.detail}")


async def _failed(request: Request, problem: Any) -> JSONResponse:
    return error(500, "the request failed; the cluster's log says why")
