"""Tools of other people's MCP servers, by the official SDK: those that the settings name, nobody else's.

What is offered is what an operator has consented to (`consent.py`), so an agent has its tools whether or not their
server answers just now; the connection (`mcp_servers.py`) is made with the first call. A tool that its server meanwhile
describes in other words is not called until somebody has looked at them.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from cluster.settings import Strict
from services.agents.toolbox import consent
from services.agents.toolbox.consent import Change, Consent, Words
from services.agents.toolbox.mcp_servers import Link, Lost, Server
from services.agents.tools import Invocation, Result, Tool, ToolError

MOST_CHARS = 100_000
"""Of a result; a model would read no more anyway."""


class McpToolsSettings(Strict):
    """MCP servers by name."""

    servers: dict[str, Server] = {}


class McpTools:
    """The tools of all these servers."""

    def __init__(self, settings: McpToolsSettings, state: Path) -> None:
        self._state = state
        self._links = {name: Link(name, server) for name, server in settings.servers.items()}
        self._servers = settings.servers
        for name in settings.servers:
            consent.path(state, name)  # names that do not do are found now

    def tools(self, taken: Collection[str] = ()) -> list[Tool]:
        """What is consented to by now. A name that two servers use, or that is `taken`, has its server in front."""
        given = {name: consent.read(self._state, name) for name in self._links}
        consents = {name: each.tools for name, each in given.items() if each is not None}
        called = names(consents, taken)
        return [
            self._tool(called[server, name], server, name, words)
            for server, tools in consents.items()
            for name, words in tools.items()
        ]

    def connected(self) -> dict[str, bool]:
        """Which servers there are, and which of them are connected now."""
        return {name: link.connected for name, link in self._links.items()}

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()

    def _tool(self, called: str, server: str, name: str, words: Words) -> Tool:
        link, again = self._links[server], idempotent(words)

        async def run(invocation: Invocation) -> Result:
            if (await link.tools()).get(name) != words:
                raise ToolError(
                    f"{called} is no longer what was consented to; "
                    f"somebody has to look at it (`trivium agents consent {server}`), so do without it"
                )
            try:
                return told(await link.call(name, invocation.arguments, again=again))
            except Lost:
                raise ToolError(
                    f"the MCP server {server} went away during the call; whether it was carried out is not known, "
                    "so look before you call it again"
                ) from None

        return Tool(
            name=called,
            description=words.get("description") or words.get("title") or "",
            schema=words["inputSchema"],
            run=run,
            owner=f"mcp:{server}",
            idempotent=again,
            timeout_s=self._servers[server].timeout_s,
        )


async def ask_consent(
    server: str, settings: McpToolsSettings, state: Path, by: str, agree: Callable[[list[Change]], bool]
) -> Consent | None:
    """Show an operator how a server's tools differ from what was consented to, and keep the answer.

    Returns the consent that holds now; None if there is none. Raises `ValueError` if the server does not answer.
    """
    if server not in settings.servers:
        known = ", ".join(sorted(settings.servers)) or "none"
        raise ValueError(f"no MCP server is called {server}; the settings name: {known}")
    before, link = consent.read(state, server), Link(server, settings.servers[server])
    try:
        now = await link.tools()
    except ToolError as failure:
        raise ValueError(str(failure)) from None
    finally:
        await link.close()
    found = consent.changes(before, now)
    if not found or not agree(found):
        return before
    given = Consent(server=server, time=time.time(), by=by, tools=now)
    consent.record(state, given)
    return given


def names(tools: Mapping[str, Collection[str]], taken: Collection[str] = ()) -> dict[tuple[str, str], str]:
    """What each tool of each server is called here: as its server calls it where only one does, in the letters that
    OpenAI's API takes. Depends on what is consented to alone, so a server that is away renames nobody's tools."""
    plain = {(server, name): re.sub(r"[^A-Za-z0-9_-]", "_", name) for server, each in tools.items() for name in each}
    uses = Counter([*plain.values(), *taken])
    called = {key: name if uses[name] == 1 else f"{key[0]}_{name}" for key, name in plain.items()}
    uses = Counter([*called.values(), *taken])
    return {key: name if uses[name] == 1 and len(name) <= 64 else _short(name, key) for key, name in called.items()}


def idempotent(words: Words) -> bool:
    """Whether the server says that a call may be repeated: it changes nothing, or nothing more the second time."""
    hints = words.get("annotations") or {}
    return bool(hints.get("readOnlyHint") or hints.get("idempotentHint"))


def told(result: CallToolResult) -> Result:
    """A result as the loop takes it: text, and what is no text by its kind and size."""
    content = "\n".join(map(_text, result.content))
    if not content and result.structured_content is not None:
        content = json.dumps(result.structured_content, ensure_ascii=False)
    if len(content) > MOST_CHARS:
        content = f"{content[:MOST_CHARS]}\n[{len(content) - MOST_CHARS} more characters were left out]"
    return Result(content, failed=bool(result.is_error), structured=result.structured_content)


def _text(block: ContentBlock) -> str:
    match block:
        case TextContent(text=text):
            return text
        case ImageContent(mime_type=kind, data=data) | AudioContent(mime_type=kind, data=data):
            return f"[{kind}, {len(data) * 3 // 4} bytes]"
        case ResourceLink(uri=uri, name=name):
            return f"[{name}: {uri}]"
        case EmbeddedResource(resource=TextResourceContents(text=text)):
            return text
        case EmbeddedResource(resource=resource):
            return f"[{resource.mime_type or 'data'}: {resource.uri}]"


def _short(name: str, key: tuple[str, str]) -> str:
    """A name that is not too long, and of this one tool alone."""
    return f"{name[:55]}_{hashlib.sha256('/'.join(key).encode()).hexdigest()[:8]}"
