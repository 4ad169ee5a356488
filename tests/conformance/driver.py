"""The client that the conformance suite runs, once for each scenario: our `Link`, told to do what tests a client.

`python -m tests.conformance.driver URL`; the suite's environment says which scenario it is. It lists the tools and
calls each, as an agent would that wants to try everything. Where the suite wants OAuth, the SDK's provider does it and
this program plays the person: it says yes to every authorization page.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client import ClientRequestContext
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp_types import ElicitRequestParams, ElicitResult

from services.agents.toolbox.mcp_servers import Http, Link
from services.agents.tools import ToolError

REDIRECT = "http://localhost:3917/callback"
METADATA = "https://conformance-test.local/client-metadata.json"
"""Where the suite believes our client's metadata to be; some of its authorization servers take that for an id."""


class Memory:
    """Tokens and registrations, for as long as the program runs."""

    def __init__(self, client: OAuthClientInformationFull | None) -> None:
        self._client, self._tokens = client, None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class Person:
    """Somebody who says yes."""

    def __init__(self) -> None:
        self._landed: dict[str, list[str]] = {}

    async def authorize(self, page: str) -> None:
        async with httpx2.AsyncClient() as browser:
            answer = await browser.get(page)
        self._landed = parse_qs(urlsplit(answer.headers["location"]).query)

    async def come_back(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(**{name: self._landed.get(name, [None])[0] for name in ("code", "state", "iss")})


def oauth(url: str, context: dict[str, Any]) -> OAuthClientProvider:
    """Authorization for the scenarios that want it; `context` may have a client that is registered already."""
    registered = None
    if "client_id" in context:
        registered = OAuthClientInformationFull(
            client_id=context["client_id"],
            client_secret=context.get("client_secret"),
            redirect_uris=[REDIRECT],
            token_endpoint_auth_method="client_secret_basic",
            issuer=context.get("issuer"),
        )
    person = Person()
    return OAuthClientProvider(
        url,
        OAuthClientMetadata(redirect_uris=[REDIRECT], client_name="trivium"),
        Memory(registered),
        redirect_handler=person.authorize,
        callback_handler=person.come_back,
        client_metadata_url=METADATA,
    )


async def accept(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """What a person sends who changes nothing in a form and presses the button."""
    fields = getattr(params, "requested_schema", {}).get("properties", {})
    return ElicitResult(action="accept", content={name: sample(schema) for name, schema in fields.items()})


def sample(schema: dict[str, Any]) -> Any:
    """A value that fits a simple schema."""
    if "default" in schema:
        return schema["default"]
    if "properties" in schema:
        return {name: sample(each) for name, each in schema["properties"].items()}
    return {"number": 2, "integer": 2, "boolean": True, "array": [], "object": {}, "null": None}.get(
        schema.get("type"), "x"
    )


async def main(url: str) -> None:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    older = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"] < "2026"
    server = Http(url=url, timeout_s=20, era="legacy" if older else "auto")
    auth = oauth(url, context) if scenario.startswith("auth/") else None
    link = Link("suite", server, auth=auth, elicit=accept)
    try:
        tools = await link.tools()
        calls = {name: sample(words["inputSchema"]) for name, words in tools.items()}
        calls |= {call["name"]: call["arguments"] for call in context.get("toolCalls", ())}
        if "json_schema_echo" in tools:  # wants to see what became of the other tool's schema on its way here
            calls["json_schema_echo"] = {"schema": tools["json_schema_2020_12_tool"]["inputSchema"]}
        for name, arguments in calls.items():
            try:
                print(name, await link.call(name, arguments, again=False))
            except ToolError as refusal:  # a model would read it and go on
                print(name, refusal)
    finally:
        await link.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    try:
        asyncio.run(main(sys.argv[1]))
    except ToolError as refusal:  # what a server may not do, a client refuses: some scenarios want just that
        sys.exit(f"refused: {refusal}")
