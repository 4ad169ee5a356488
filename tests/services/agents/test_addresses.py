"""A name that leads into a private network leads nowhere, whenever and however it does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence

import httpx
import pytest

from services.agents.addresses import CheckedTransport, Refused, is_public, resolve


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.5", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
        *("169.254.169.254", "192.0.0.192", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "::7f00:1"),
        *("2001:0:7f00:1::", "localhost", "", "1.1.1.1.1", "0177.0.0.1"),
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_public(address)


class Server:
    """Answers every request with what it was asked, and counts them."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.redirect = ""

    async def start(self) -> Server:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heard.append(head)
        status = f"302 Found\r\nlocation: {self.redirect}" if self.redirect else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".encode())
        await writer.drain()
        writer.close()

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = await Server().start()
    yield server
    await server.stop()


def names(**known: Sequence[str]) -> Callable[[str, int], object]:
    async def look_up(host: str, _: int) -> Sequence[str]:
        return known.get(host.replace(".", "_"), [])

    return look_up


def client(allowed: Callable[[str], bool] = is_public, **known: Sequence[str]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=CheckedTransport(allowed, names(**known)), follow_redirects=True)  # type: ignore[arg-type]


async def test_a_request_goes_to_the_address_that_was_checked_and_names_its_host(server: Server) -> None:
    async with client(lambda address: address == "127.0.0.1", shop_example=["127.0.0.1"]) as http:
        answer = await http.get(f"http://shop.example:{server.port}/a?b=c")
    assert answer.text == "ok"
    assert server.heard[0].startswith("GET /a?b=c ") and f"Host: shop.example:{server.port}" in server.heard[0]
    assert str(answer.url) == f"http://shop.example:{server.port}/a?b=c"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_this_machine_is_refused_in_every_notation(server: Server, host: str) -> None:
    async with httpx.AsyncClient(transport=CheckedTransport()) as http:
        with pytest.raises((Refused, httpx.ConnectError)):  # not every resolver knows every notation
            await http.get(f"http://{host}:{server.port}/")
    assert not server.heard


async def test_one_private_address_among_public_ones_is_one_too_many(server: Server) -> None:
    async with client(shop_example=["1.1.1.1", "127.0.0.1"]) as http:
        with pytest.raises(Refused, match=r"shop\.example"):
            await http.get(f"http://shop.example:{server.port}/")
    assert not server.heard


async def test_a_name_that_changes_its_address_after_the_check_gains_nothing(server: Server) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])

    async def rebind(host: str, port: int) -> Sequence[str]:
        return next(answers)

    transport = CheckedTransport(lambda address: address == "127.0.0.1", rebind)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.get(f"http://shop.example:{server.port}/")).text == "ok"
        with pytest.raises(Refused):
            await http.get(f"http://shop.example:{server.port}/")
    assert len(server.heard) == 1


async def test_a_redirect_is_checked_like_a_request(server: Server) -> None:
    server.redirect = f"http://inside.example:{server.port}/token"
    allowed = {"127.0.0.1"}
    async with client(allowed.__contains__, shop_example=["127.0.0.1"], inside_example=["127.0.0.2"]) as http:
        with pytest.raises(Refused, match=r"inside\.example"):
            await http.get(f"http://shop.example:{server.port}/")
    assert len(server.heard) == 1


async def test_the_next_address_is_tried_where_one_does_not_answer(server: Server) -> None:
    async with client(lambda _: True, shop_example=["127.0.0.9", "127.0.0.1"]) as http:
        assert (await http.get(f"http://shop.example:{server.port}/")).text == "ok"


async def test_a_name_without_address_says_so() -> None:
    async with client() as http:
        with pytest.raises(httpx.ConnectError, match=r"nobody\.example has no address"):
            await http.get("http://nobody.example/")


async def test_tls_is_asked_for_the_name_not_the_address(server: Server) -> None:
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    tls = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    port = tls.sockets[0].getsockname()[1]
    async with tls, client(lambda _: True, shop_example=["127.0.0.1"]) as http:
        with pytest.raises(httpx.ConnectError):  # it has no certificate
            await http.get(f"https://shop.example:{port}/")
    assert seen == ["shop.example"]


async def test_the_machines_own_resolver_knows_this_machine() -> None:
    assert "127.0.0.1" in await resolve("localhost", 80)
