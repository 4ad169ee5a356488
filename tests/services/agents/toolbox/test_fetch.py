"""`http_get` reads the hosts of its list, whatever names, redirects and resolvers say."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from pydantic import ValidationError

from services.agents.addresses import CheckedTransport
from services.agents.toolbox.fetch import FetchSettings, http_get
from services.agents.tools import Result, Tool, ToolError
from tests.services.agents.asking import call

Answer = tuple[int, dict[str, str], bytes]


class Site:
    """A web site: answers each path as it was told to."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.heads: list[str] = []
        self.hold = asyncio.Event()

    async def start(self) -> Site:
        self.server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def page(self, path: str, body: bytes, kind: str = "text/plain", status: int = 200, **headers: str) -> str:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, ({"content-type": kind} if kind else {}) | headers, body)
        return f"http://site.example:{self.port}{path}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if (path := head.split(" ")[1]) == "/held":
            await self.hold.wait()
        status, headers, body = self.pages.get(path, (404, {"content-type": "text/plain"}, b"nothing here"))
        fields = {"connection": "close", **headers}
        writer.write(f"HTTP/1.1 {status} X\r\n".encode())
        writer.write("".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode() + b"\r\n" + body)
        try:
            await writer.drain()
        except ConnectionError:
            return  # whoever has enough hangs up
        finally:
            writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = await Site().start()
    yield site
    site.hold.set()
    site.server.close()
    await site.server.wait_closed()


Get = Callable[[str], Awaitable[Result]]


def tool(port: int, private: Sequence[str] = (), **settings: object) -> Tool:
    """Its resolver knows every name, and all but the private ones are at addresses that count as public here."""
    hosts = [f"site.example:{port}", f"*.deep.example:{port}", f"inside.example:{port}"]

    async def look_up(host: str, _: int) -> list[str]:
        return ["127.0.0.2" if host in private else "127.0.0.1"]

    transport = CheckedTransport(lambda address: address == "127.0.0.1", look_up)
    return http_get(FetchSettings.model_validate({"hosts": hosts} | settings), transport)


async def get(made: Tool, url: str) -> Result:
    return await made.run(call(url=url))


async def test_listed_host_is_read_as_text(site: Site) -> None:
    said = await get(
        tool(site.port), site.page("/a?b=1", "Tee für dich".encode("latin-1"), "text/html; charset=latin-1")
    )
    assert said.content == f"HTTP 200 from http://site.example:{site.port}/a?b=1\n\nTee für dich"
    assert not said.failed and "Cookie" not in site.heads[0]


async def test_names_below_a_star_are_listed_and_the_name_itself_is_not(site: Site) -> None:
    site.page("/", b"here")
    made = tool(site.port)
    assert "here" in (await get(made, f"http://a.b.deep.example:{site.port}/")).content
    with pytest.raises(ToolError, match=r"http://deep\.example:\d+ may not be read; these may: site\.example"):
        await get(made, f"http://deep.example:{site.port}/")


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example:{port}/",
        "http://site.example/",
        "http://site.example.evil.example:{port}/",
        "http://evil.example:{port}/@site.example",
        "http://xdeep.example:{port}/",
        "http://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://site.example:{port}/",
        "//site.example:{port}/",
        "http://site.example:{port}@evil.example/",
        "http://[/",
        "",
    ],
)
async def test_everything_else_is_refused_before_anything_is_sent(site: Site, url: str) -> None:
    site.page("/", b"here")
    with pytest.raises(ToolError):
        await get(tool(site.port), url.format(port=site.port))
    assert not site.heads


async def test_listed_name_at_a_private_address_is_refused(site: Site) -> None:
    with pytest.raises(ToolError, match=r"inside\.example is at an address that is not public"):
        await get(tool(site.port, private=["inside.example"]), f"http://inside.example:{site.port}/")
    assert not site.heads


@pytest.mark.parametrize("target", ["http://evil.example/", "http://inside.example:{port}/", "file:///etc/passwd"])
async def test_redirect_leads_nowhere_else(site: Site, target: str) -> None:
    url = site.page("/go", b"", status=302, location=target.format(port=site.port))
    with pytest.raises(ToolError):
        await get(tool(site.port, private=["inside.example"]), url)
    assert len(site.heads) == 1


async def test_redirect_to_a_listed_host_is_followed_some_times(site: Site) -> None:
    site.page("/there", b"arrived")
    url = site.page("/go", b"", status=302, location=f"http://x.deep.example:{site.port}/there", set_cookie="a=b")
    said = await get(tool(site.port), url)
    assert said.content.endswith("arrived") and "x.deep.example" in said.content
    assert not any("cookie:" in head.lower() for head in site.heads)
    circle = site.page("/circle", b"", status=302, location="/circle")
    with pytest.raises(ToolError, match="redirects more than 5 times"):
        await get(tool(site.port), circle)


async def test_long_answer_is_cut_packed_or_not(site: Site) -> None:
    made = tool(site.port, most_bytes=1000)
    plain = await get(made, site.page("/long", b"x" * 5_000_000))
    packed = await get(made, site.page("/packed", gzip.compress(b"x" * 50_000_000), content_encoding="gzip"))
    for said in (plain, packed):
        assert said.content.count("x") < 1020 and said.content.endswith("[cut here: the answer is longer]")


@pytest.mark.parametrize(
    ("kind", "body"), [("image/png", b"\x89PNG"), ("application/octet-stream", b"a"), ("", b"a\0b")]
)
async def test_what_is_no_text_is_only_named(site: Site, kind: str, body: bytes) -> None:
    said = await get(tool(site.port), site.page("/picture", body, kind))
    assert "no text]" in said.content and "PNG" not in said.content


@pytest.mark.parametrize("charset", ["nonsense", "zlib", "hex"])
async def test_strange_charset_is_read_as_utf8(site: Site, charset: str) -> None:
    said = await get(tool(site.port), site.page("/odd", "für".encode(), f"text/plain; charset={charset}"))
    assert said.content.endswith("für")


async def test_failure_of_the_site_is_told_to_the_model(site: Site) -> None:
    said = await get(tool(site.port), f"http://site.example:{site.port}/gone")
    assert said.failed and said.content.startswith("HTTP 404") and said.content.endswith("nothing here")


async def test_site_that_hangs_is_given_up(site: Site) -> None:
    with pytest.raises(ToolError, match=r"site\.example did not answer within 0\.2 s"):
        await get(tool(site.port, timeout_s=0.2), f"http://site.example:{site.port}/held")


def test_list_with_more_than_hosts_is_refused() -> None:
    for wrong in ("https://site.example", "site.example/path", "*", "*.", "a b", "Site.Example"):
        with pytest.raises(ValidationError, match="is no host"):
            FetchSettings(hosts=(wrong,))


def test_model_is_told_which_hosts_it_may_read() -> None:
    made = tool(8080)
    assert "site.example:8080" in made.description and made.idempotent and json.dumps(made.schema)
