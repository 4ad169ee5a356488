"""The operations of an HTTP API as tools, from its OpenAPI document.

HTTP says what may be repeated (RFC 9110, 9.2.2): GET, HEAD, OPTIONS, PUT and DELETE leave the server, done twice, as
done once. A repeated DELETE may answer 404, and a repeated PUT overwrites what somebody else wrote in between: where
that matters, `idempotent` says otherwise for one operation. POST and PATCH carry the operation's id as
`Idempotency-Key`, and are repeated only where `idempotent` says that the API keeps to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import yaml
from pydantic import Field, SecretStr, StringConstraints

from cluster.settings import Strict
from services.agents.toolbox import wire
from services.agents.toolbox.openapi_document import BODY, OURS, Operation, Parameter, operations, server
from services.agents.tools import Invocation, Result, Tool, ToolError

REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
MOST_DOCUMENT_BYTES = 8 * 2**20
LONGEST_NAME = 64

Query = list[tuple[str, str | int | float | bool | None]]


class Credentials(Strict):
    """How the API knows us: `HEADER: PREFIX SECRET`. The secret stays in the environment: in no prompt and no log."""

    variable: str
    """Environment variable with the secret."""
    header: str = "Authorization"
    prefix: str = "Bearer"
    """Empty where the header field has the secret alone."""


class OpenApiSettings(Strict):
    """One API."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    """Its tools' owner is `openapi:NAME`."""
    document: str
    """Absolute path of the document on every machine, or its address; JSON or YAML."""
    base_url: str | None = None
    """Where the API is; what the document says if left out."""
    operations: tuple[str, ...] = ()
    """Which ones, by `operationId`; all if left out."""
    prefix: str = ""
    """Before the name of each tool, where two APIs have the same."""
    credentials: Credentials | None = None
    idempotent: dict[str, bool] = {}
    """By `operationId`: whether it may be repeated, where that is not what its method says."""
    most_bytes: int = Field(64 * 1024, ge=1)
    """Of an answer; the rest is cut off."""
    timeout_s: float = Field(30.0, gt=0)


class Api:
    """Where an API is and how it knows us."""

    def __init__(self, settings: OpenApiSettings, base_url: str, http: httpx.AsyncClient) -> None:
        self._settings, self._base_url, self._http = settings, base_url, http
        self._headers, self._secret = _headers(settings.credentials)

    async def call(self, operation: Operation, invocation: Invocation) -> Result:
        path, query, headers = _placed(operation, invocation.arguments)
        headers |= {"accept": "application/json, text/*;q=0.5"} | self._headers
        if operation.method not in REPEATABLE:
            headers["idempotency-key"] = invocation.operation
        content = None
        if operation.has_body and BODY in invocation.arguments:
            content, headers["content-type"] = json.dumps(invocation.arguments[BODY]), "application/json"
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._send(operation.method, self._base_url + path, query, headers, content)
        except (TimeoutError, httpx.TimeoutException):
            raise ToolError(f"{self._settings.name} did not answer within {self._settings.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ToolError(self._without_secret(f"{self._settings.name} cannot be reached: {error}")) from None

    async def _send(self, method: str, url: str, query: Query, headers: dict[str, str], content: str | None) -> Result:
        async with self._http.stream(method, url, params=query or None, headers=headers, content=content) as response:
            body = await wire.read(response, self._settings.most_bytes)
        text = self._without_secret(str(body))  # some echo what they were sent
        if response.is_error or response.has_redirect_location:
            return Result(f"HTTP {response.status_code}\n{text}".rstrip(), failed=True)
        try:
            structured = None if body.cut else json.loads(text)
        except ValueError:
            structured = None
        return Result(text or f"HTTP {response.status_code}", structured=structured)

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret.get_secret_value(), "[secret]") if self._secret else text


async def openapi_tools(settings: OpenApiSettings, transport: httpx.AsyncBaseTransport | None = None) -> list[Tool]:
    """Raises `ValueError`, one sentence that names the API, for a document or settings that do not fit."""
    http = wire.client(settings.timeout_s, transport)
    try:
        document, origin = await _document(settings, http)
        kept_out = OURS | ({settings.credentials.header.lower()} if settings.credentials else set())
        found = operations(document, frozenset(kept_out))
        api = Api(settings, _base_url(settings, document, origin), http)
        known = {each.id for each in found}
        if unknown := sorted({*settings.operations, *settings.idempotent} - known):
            there = ", ".join(sorted(known)) or "none"
            raise ValueError(f"there is no operation {', '.join(unknown)} that can be a tool; there are: {there}")
    except ValueError as error:
        await http.aclose()
        raise ValueError(f"the API {settings.name}: {error}") from None
    chosen = [each for each in found if not settings.operations or each.id in settings.operations]
    return [_tool(settings, api, each) for each in chosen]


def _tool(settings: OpenApiSettings, api: Api, operation: Operation) -> Tool:
    async def run(invocation: Invocation) -> Result:
        return await api.call(operation, invocation)

    return Tool(
        re.sub(r"[^A-Za-z0-9_-]+", "_", settings.prefix + operation.id).strip("_")[:LONGEST_NAME],
        operation.description,
        operation.schema,
        run,
        f"openapi:{settings.name}",
        settings.idempotent.get(operation.id, operation.method in REPEATABLE),
        settings.timeout_s + 5,
    )


async def _document(settings: OpenApiSettings, http: httpx.AsyncClient) -> tuple[dict[str, Any], str | None]:
    """The document, and its address if it has one."""
    named = settings.document
    if named.startswith(("http://", "https://")):
        text = await _fetched(named, http)
    elif Path(named).is_absolute():
        try:
            text = await asyncio.to_thread(Path(named).read_text)
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{named} cannot be read ({error})") from None
    else:
        raise ValueError(f"{named} depends on where one stands; give an absolute path or an address")
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{named} is neither JSON nor YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{named} is no OpenAPI document")
    return document, named if named.startswith("http") else None


async def _fetched(url: str, http: httpx.AsyncClient) -> str:
    try:
        async with http.stream("GET", url) as response:
            body = await wire.read(response, MOST_DOCUMENT_BYTES)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{url} cannot be read: {error or type(error).__name__}") from None
    if response.status_code != 200 or body.cut:
        said = f"is longer than {MOST_DOCUMENT_BYTES} bytes" if body.cut else f"answers {response.status_code}"
        raise ValueError(f"{url} {said}")
    return body.text


def _base_url(settings: OpenApiSettings, document: dict[str, Any], origin: str | None) -> str:
    if settings.base_url is not None:
        return settings.base_url.rstrip("/")
    found = server(document, origin)
    if found is None:
        raise ValueError("the document does not say where the API is; give base_url")
    if settings.credentials and origin and _site(found) != _site(origin):
        raise ValueError(f"{origin} sends our credentials to {found}; if that is right, give it as base_url")
    return found


def _site(url: str) -> tuple[str, str, int | None]:
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.host, parsed.port


def _headers(credentials: Credentials | None) -> tuple[dict[str, str], SecretStr | None]:
    if credentials is None:
        return {}, None
    secret = os.environ.get(credentials.variable, "").strip()
    if not secret:
        raise ValueError(f"its secret is not in the environment; set {credentials.variable} before `trivium up`")
    return {credentials.header: f"{credentials.prefix} {secret}".strip()}, SecretStr(secret)


def _placed(operation: Operation, arguments: dict[str, Any]) -> tuple[str, Query, dict[str, str]]:
    """Path, query and header fields of a call. Raises `ToolError`."""
    path, query, headers = operation.path, Query(), dict[str, str]()
    for each in operation.parameters:
        value = arguments.get(each.argument)
        if value is None:
            continue
        match each.place:
            case "path":
                path = path.replace(f"{{{each.name}}}", _segment(each, value))
            case "query":
                query += _pairs(each, value)
            case "header":
                headers[each.name] = _joined(each, value)
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ToolError(f"the path {path} would lead to another operation")
    return path, query, headers


def _segment(parameter: Parameter, value: Any) -> str:
    text = _joined(parameter, value)
    if not text:
        raise ToolError(f"{parameter.argument} cannot be empty")
    return quote(text, safe=",")


def _pairs(parameter: Parameter, value: Any) -> Query:
    name = parameter.name
    match value:
        case dict() if parameter.deep and not parameter.as_json:
            return [(f"{name}[{key}]", _plain(each)) for key, each in value.items()]
        case dict() if parameter.explode and not parameter.as_json:
            return [(key, _plain(each)) for key, each in value.items()]
        case list() if parameter.explode and not parameter.as_json:
            return [(name, _plain(each)) for each in value]
    return [(name, _joined(parameter, value))]


def _joined(parameter: Parameter, value: Any) -> str:
    if parameter.as_json:
        return json.dumps(value)
    match value:
        case list():
            return ",".join(_plain(each) for each in value)
        case dict() if parameter.explode:
            return ",".join(f"{key}={_plain(each)}" for key, each in value.items())
        case dict():
            return ",".join(f"{key},{_plain(each)}" for key, each in value.items())
    return _plain(value)


def _plain(value: Any) -> str:
    """As JSON writes it, a string without its quotes."""
    return value if isinstance(value, str) else json.dumps(value)
