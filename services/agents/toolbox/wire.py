"""HTTP as tools speak it: no cookies, no redirects by themselves, and no more of an answer than there is room for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

_TEXT = re.compile(r"text/.*|application/(.*\+)?(json|xml|yaml|javascript|x-www-form-urlencoded|x-ndjson|x-yaml)")


@dataclass(frozen=True)
class Body:
    """What came of an answer's body."""

    text: str
    cut: bool
    """Whether there was more."""

    def __str__(self) -> str:
        return self.text + ("\n[cut here: the answer is longer]" if self.cut else "")


def client(timeout_s: float, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """For the calls of many principals: what a server sets for one of them is not told by the next."""
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        cookies=jar,
        timeout=timeout_s,
        headers={"user-agent": "trivium", "accept-encoding": "gzip"},
    )


async def read(response: httpx.Response, most_bytes: int) -> Body:
    """At most so much of an answer that is being streamed, as text; what is no text is only named."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not _TEXT.fullmatch(kind):
        return Body(f"[{kind}, which is no text]", cut=False)
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > most_bytes:
            break
    if not kind and b"\0" in content:
        return Body("[no text]", cut=False)
    cut = len(content) > most_bytes
    return Body(bytes(content[:most_bytes]).decode(_encoding(response), "ignore" if cut else "replace"), cut)


def _encoding(response: httpx.Response) -> str:
    charset = response.charset_encoding or "utf-8"
    try:
        b"a".decode(charset, "replace")
    except LookupError:  # unknown, or an encoding of something else than text, such as zlib
        return "utf-8"
    return charset
