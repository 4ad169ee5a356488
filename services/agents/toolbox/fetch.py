"""`http_get`: pages of hosts that the operator lists, from public addresses only."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
from pydantic import field_validator

from cluster.settings import Strict
from services.agents.addresses import CheckedTransport, Refused
from services.agents.toolbox import wire
from services.agents.tools import Invocation, Result, Tool, ToolError

_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*(:\d{1,5})?")
_PORTS = {"http": 80, "https": 443}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"url": {"type": "string", "maxLength": 2048, "description": "An http or https address."}},
    "required": ["url"],
    "additionalProperties": False,
}


class FetchSettings(Strict):
    """Where `http_get` may go."""

    hosts: tuple[str, ...]
    """`docs.example.org`, `*.example.org` (those below it, not itself), with `:8443` for a port of its own."""
    most_bytes: int = 256 * 1024
    """Of one answer; the rest is cut off."""
    most_redirects: int = 5
    """Each leads to a host of the list again."""
    timeout_s: float = 20.0
    """For everything, redirects included."""

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host; write docs.example.org, *.example.org or docs.example.org:8443")
        return hosts


def http_get(settings: FetchSettings, transport: httpx.AsyncBaseTransport | None = None) -> Tool:
    """Connects by `CheckedTransport`: an address inside is refused even where a listed name leads there."""
    client = wire.client(settings.timeout_s, transport or CheckedTransport())

    async def run(invocation: Invocation) -> Result:
        url = _parsed(invocation.arguments["url"])
        try:
            async with asyncio.timeout(settings.timeout_s):
                return await _get(client, url, settings)
        except (TimeoutError, httpx.TimeoutException):
            raise ToolError(f"{url.host} did not answer within {settings.timeout_s:g} s") from None
        except Refused as error:
            raise ToolError(str(error)) from None
        except httpx.HTTPError as error:
            raise ToolError(f"{url.host} cannot be read: {error or type(error).__name__}") from None

    description = f"Read a page on the web as text. These hosts may be read: {', '.join(settings.hosts)}."
    return Tool("http_get", description, SCHEMA, run, "builtin", idempotent=True, timeout_s=settings.timeout_s + 5)


async def _get(client: httpx.AsyncClient, url: httpx.URL, settings: FetchSettings) -> Result:
    for _ in range(settings.most_redirects + 1):
        if not _listed(url, settings.hosts):
            raise ToolError(f"{_address(url)} may not be read; these may: {', '.join(settings.hosts)}")
        async with client.stream("GET", url) as response:
            if response.next_request is None:
                body = await wire.read(response, settings.most_bytes)
                return Result(f"HTTP {response.status_code} from {url}\n\n{body}", failed=response.is_error)
            url = response.next_request.url
    raise ToolError(f"{url.host} redirects more than {settings.most_redirects} times")


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ToolError(f"{text!r} is no address: {error}") from None
    if url.userinfo:
        raise ToolError("an address with a name or password in it is not read")
    return url


def _listed(url: httpx.URL, hosts: tuple[str, ...]) -> bool:
    if url.scheme not in _PORTS:
        return False
    host, plain = url.raw_host.decode("ascii").rstrip("."), url.port in (None, *_PORTS.values())
    for each in hosts:
        name, _, port = each.partition(":")
        fits = host.endswith(name[1:]) if name.startswith("*.") else host == name
        if fits and (str(url.port or _PORTS[url.scheme]) == port if port else plain):
            return True
    return False


def _address(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
