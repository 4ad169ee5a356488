"""Connections to addresses that somebody else named: only to those that are allowed, and checked where it counts.

A name is resolved once, each address that came of it is checked, and the connection goes to one of exactly these: a
name that resolves to another address a moment later (DNS rebinding) gains nothing. Redirects pass here like any other
request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host's name (or of an address itself, in any notation) at a port."""

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_PROTOCOLS = IPv4Network("192.0.0.0/24")
"""Assigned to protocols; a cloud's metadata among them."""
_CONNECT_S = 5.0
"""Patience with a resolver where the client has set none."""


class Refused(httpx.TransportError):
    """An address that nobody here connects to. One sentence."""


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet's: not of this machine, a private network, a cloud's metadata, a
    multicast group, nor a tunnel (6to4, Teredo) whose other end could be any of these.

    Source: IANA's special-purpose registries, as `ipaddress` has them.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        if found in _NAT64:
            return is_public(str(IPv4Address(found.packed[-4:])))
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in _GLOBAL_UNICAST or found.sixtofour is not None or found.teredo is not None:
            return False
    elif found in _PROTOCOLS:
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


async def resolve(host: str, port: int) -> list[str]:
    """What this machine's resolver says, in the order in which to try. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=...)`: connects to allowed addresses only, and through no proxy.

    The host keeps its name for TLS and in `Host`. Raises `Refused`; like every transport `httpx.TransportError`.
    """

    def __init__(self, allowed: Callable[[str], bool] = is_public, resolve: Resolve = resolve) -> None:
        self._allowed, self._resolve = allowed, resolve
        # A kept connection is found by its address, and another name's certificate was checked when it was made.
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, named = _host(request), request.url
        # The field `Host` was written when the request was made, with the name.
        request.extensions = {**request.extensions, "sni_hostname": host}
        failure: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in await self._addresses(request):
            request.url = named.copy_with(host=address)
            try:
                return await self._inner.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error  # nothing was sent yet; a machine without IPv6 gets nowhere with a host's first address
            finally:
                request.url = named
        raise failure or httpx.ConnectError(f"{host} has no address", request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _addresses(self, request: httpx.Request) -> Sequence[str]:
        host, port = _host(request), request.url.port or (443 if request.url.scheme == "https" else 80)
        patience = request.extensions.get("timeout", {}).get("connect") or _CONNECT_S
        try:
            addresses = await asyncio.wait_for(self._resolve(host, port), patience)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"{host} was not resolved within {patience:g} s", request=request) from None
        except (OSError, UnicodeError) as error:  # a label that is too long is no OSError
            raise httpx.ConnectError(f"{host} cannot be resolved ({error})", request=request) from None
        if not all(self._allowed(address) for address in addresses):
            raise Refused(f"{host} is at an address that is not public; only public ones may be reached")
        return addresses


def _host(request: httpx.Request) -> str:
    """As the resolver and TLS know it."""
    return request.url.raw_host.decode("ascii")
