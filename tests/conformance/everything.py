"""What the conformance suite wants to find at a server, on the server code of /mcp.

`python -m tests.conformance.everything` serves it and prints its address. The suite sends no keys, so a layer in front
adds one: what is measured is the application as it is, keys and all. It keeps sessions, because older clients are asked
back here.

The names, texts and schemas are the suite's (its scenarios' descriptions say them).
"""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.auth import Keys
from services.agents.mcp_server import McpSettings, serve
from tests.services.agents.loopback import listening

RED = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==")
).decode()
"""One red pixel, a PNG."""
SILENCE = base64.b64encode(
    b"RIFF\x26\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00"
    b"data\x02\x00\x00\x00\x00\x00"
).decode()
"""One sample, a WAV."""
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
PEOPLE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def person(**fields: Any) -> str:
    """Tool with JSON Schema 2020-12 features"""
    return "noted"


def everything() -> MCPServer[Any]:
    """The server under test."""
    by_schema = Tool.from_function(person, name="json_schema_2020_12_tool").model_copy(update={"parameters": PEOPLE})
    server: MCPServer[Any] = MCPServer("trivium-conformance", version="1", log_level="WARNING", tools=[by_schema])
    _contents(server)
    _notifications(server)
    _questions(server)
    _rounds(server)
    _resources(server)
    _prompts(server)
    _older(server)
    return server


def _contents(server: MCPServer[Any]) -> None:
    image = ImageContent(data=RED, mime_type="image/png")

    @server.tool()
    async def test_simple_text() -> str:
        """Returns text."""
        return "This is a simple text response for testing."

    @server.tool(structured_output=False)
    async def test_image_content() -> ImageContent:
        """Returns an image."""
        return image

    @server.tool(structured_output=False)
    async def test_audio_content() -> AudioContent:
        """Returns sound."""
        return AudioContent(data=SILENCE, mime_type="audio/wav")

    @server.tool(structured_output=False)
    async def test_embedded_resource() -> EmbeddedResource:
        """Returns a resource."""
        return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")

    @server.tool(structured_output=False)
    async def test_multiple_content_types() -> list[Any]:
        """Returns several kinds at once."""
        document = json.dumps({"test": "data", "value": 123})
        return [
            TextContent(text="Multiple content types test:"),
            image,
            _embedded("test://mixed-content-resource", "application/json", document),
        ]

    @server.tool()
    async def test_error_handling() -> str:
        """Always fails."""
        raise ToolError("This tool intentionally returns an error for testing")

    @server.tool()
    async def test_custom_header(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
    ) -> str:
        """Has an argument that clients mirror in a header."""
        return region


def _notifications(server: MCPServer[Any]) -> None:
    @server.tool()
    async def test_tool_with_logging(context: Context) -> str:
        """Logs what it does."""
        for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await context.info(line)
            await anyio.sleep(0.05)
        return "Logged three lines"

    @server.tool()
    async def test_logging_tool(context: Context) -> str:
        """Logs one line."""
        await context.info("Only for those who asked for it")
        return "Logged one line"

    @server.tool()
    async def test_tool_with_progress(context: Context) -> str:
        """Tells how far it is."""
        for done in (0, 50, 100):
            await context.report_progress(done, 100)
            await anyio.sleep(0.05)
        return "Went all the way"

    @server.tool()
    async def test_trigger_tool_change(context: Context) -> str:
        """Makes those who listen list the tools again."""
        await context.notify_tools_changed()
        return "Told them"

    @server.tool()
    async def test_trigger_prompt_change(context: Context) -> str:
        """Makes those who listen list the prompts again."""
        await context.notify_prompts_changed()
        return "Told them"


def _questions(server: MCPServer[Any]) -> None:
    """Older clients are asked in the middle of a call."""

    @server.tool()
    async def test_sampling(prompt: str, context: Context) -> str:
        """Asks the client's model."""
        said = await context.session.create_message(
            [_user(prompt)], max_tokens=100, related_request_id=context.request_id
        )
        return f"LLM response: {said.content.text if isinstance(said.content, TextContent) else said.content}"

    async def elicit(context: Context, message: str, schema: dict[str, Any]) -> ElicitResult:
        return await context.session.elicit(message, schema, related_request_id=context.request_context.request_id)

    @server.tool()
    async def test_elicitation(message: str, context: Context) -> str:
        """Asks the user."""
        text = {"type": "string"}
        fields = {
            "username": {**text, "description": "User's response"},
            "email": {**text, "description": "User's email address"},
        }
        said = await elicit(context, message, {"type": "object", "properties": fields, "required": [*fields]})
        return f"User response: action={said.action}, content={json.dumps(said.content)}"

    @server.tool()
    async def test_elicitation_sep1034_defaults(context: Context) -> str:
        """Asks the user, with defaults of every kind."""
        fields = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        }
        said = await elicit(context, "Who are you?", {"type": "object", "properties": fields, "required": []})
        return f"Elicitation completed: action={said.action}, content={json.dumps(said.content)}"

    @server.tool()
    async def test_elicitation_sep1330_enums(context: Context) -> str:
        """Asks the user to choose, in every way that there is."""
        options, values = ["option1", "option2", "option3"], ["First", "Second", "Third"]
        titled = [{"const": f"value{n}", "title": f"{title} Option"} for n, title in enumerate(values, 1)]
        legacy = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
        fields = {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", **legacy},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        }
        said = await elicit(context, "Choose", {"type": "object", "properties": fields, "required": []})
        return f"Elicitation completed: action={said.action}, content={json.dumps(said.content)}"


def _rounds(server: MCPServer[Any]) -> None:
    """Newer clients are asked by a result, and call again with the answers."""
    name = _form("What is your name?", NAMED)

    @server.tool()
    async def test_missing_capability(context: Context) -> str:
        """Needs a client that can ask a model."""
        if context.client_capabilities is None or context.client_capabilities.sampling is None:
            needed = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs the client's sampling", needed)
        return "The client can sample"

    @server.tool(structured_output=False)
    async def test_streaming_elicitation(context: Context) -> Any:
        """Tells how far it is, then asks."""
        await context.report_progress(1, 2)
        return _answered(context, "user_name", ElicitResult) or InputRequiredResult(input_requests={"user_name": name})

    @server.tool(structured_output=False)
    async def test_input_required_result_elicitation(context: Context) -> Any:
        """Asks the user for a name."""
        said = _answered(context, "user_name", ElicitResult)
        if said is None or not isinstance((said.content or {}).get("name"), str):
            return InputRequiredResult(input_requests={"user_name": name})
        return f"Hello, {(said.content or {})['name']}!"

    @server.tool(structured_output=False)
    async def test_input_required_result_sampling(context: Context) -> Any:
        """Asks the client's model for a capital."""
        said = _answered(context, "capital_question", CreateMessageResult)
        if said is None:
            question = _sample("What is the capital of France?", 100)
            return InputRequiredResult(input_requests={"capital_question": question})
        return said.content.text if isinstance(said.content, TextContent) else "No text"

    @server.tool(structured_output=False)
    async def test_input_required_result_list_roots(context: Context) -> Any:
        """Asks for the client's roots."""
        said = _answered(context, "client_roots", ListRootsResult)
        if said is None:
            return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
        return f"Roots: {', '.join(str(root.uri) for root in said.roots)}"

    @server.tool(structured_output=False)
    async def test_input_required_result_request_state(context: Context) -> Any:
        """Asks, and wants back what it gave."""
        if context.request_state == "asked" and _answered(context, "confirm", ElicitResult):
            return "state-ok"
        return InputRequiredResult(input_requests={"confirm": _form("Please confirm", _OK)}, request_state="asked")

    @server.tool(structured_output=False)
    async def test_input_required_result_tampered_state(context: Context) -> Any:
        """Asks, and would notice if what comes back were not what it gave."""
        if context.request_state == "sealed":
            return "state-ok"
        return InputRequiredResult(input_requests={"confirm": _form("Please confirm", _OK)}, request_state="sealed")

    @server.tool(structured_output=False)
    async def test_input_required_result_multiple_inputs(context: Context) -> Any:
        """Asks three things at once."""
        asked: dict[str, InputRequest] = {
            "user_name": name,
            "greeting": _sample("Generate a greeting", 50),
            "client_roots": ListRootsRequest(),
        }
        if asked.keys() <= (context.input_responses or {}).keys():
            return f"Heard {', '.join(asked)}"
        return InputRequiredResult(input_requests=asked, request_state="three")

    @server.tool(structured_output=False)
    async def test_input_required_result_multi_round(context: Context) -> Any:
        """Asks twice."""
        match context.request_state:
            case "first" if said := _answered(context, "step1", ElicitResult):
                color = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
                asked = _form("Step 2: What is your favorite color?", color)
                state = json.dumps({"name": (said.content or {}).get("name")})
                return InputRequiredResult(input_requests={"step2": asked}, request_state=state)
            case str(state) if said := _answered(context, "step2", ElicitResult):
                return f"{json.loads(state)['name']} likes {(said.content or {}).get('color')}"
        asked = _form("Step 1: What is your name?", NAMED)
        return InputRequiredResult(input_requests={"step1": asked}, request_state="first")

    @server.tool(structured_output=False)
    async def test_input_required_result_capabilities(context: Context) -> Any:
        """Asks only what the client can answer."""
        can = context.client_capabilities
        offered: dict[str, tuple[Any, InputRequest]] = {
            "name": (can and can.elicitation, name),
            "greeting": (can and can.sampling, _sample("Generate a greeting", 50)),
            "roots": (can and can.roots, ListRootsRequest()),
        }
        asked = {key: request for key, (able, request) in offered.items() if able is not None}
        if asked and not (context.input_responses or {}).keys() >= asked.keys():
            return InputRequiredResult(input_requests=asked)
        return "Nothing left to ask"


_OK = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


def _resources(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """Text that never changes."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """A picture that never changes."""
        return base64.b64decode(RED)

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """Text to subscribe to."""
        return "Watched"

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """A document for each id."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _prompts(server: MCPServer[Any]) -> None:
    @server.prompt()
    def test_simple_prompt() -> str:
        """A prompt without arguments."""
        return "This is a simple prompt for testing."

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        """A prompt with two."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # the suite's
        """A prompt with a resource in it."""
        document = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(document), UserMessage("Please process the embedded resource above.")]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """A prompt with a picture in it."""
        picture = ImageContent(data=RED, mime_type="image/png")
        return [UserMessage(picture), UserMessage("Please analyze the image above.")]

    @server.prompt()
    async def test_input_required_result_prompt(context: Context) -> Any:
        """A prompt that asks first."""
        said = _answered(context, "user_context", ElicitResult)
        if said is None:
            schema = {"type": "object", "properties": {"context": {"type": "string"}}, "required": ["context"]}
            asked = _form("What context should the prompt use?", schema)
            return InputRequiredResult(input_requests={"user_context": asked})
        return f"Context: {(said.content or {}).get('context')}"

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        fitting = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
        return Completion(values=fitting, total=len(fitting), has_more=False)


def _older(server: MCPServer[Any]) -> None:
    """Methods that 2026-07-28 has no more, and for which `MCPServer` has no decorators."""
    methods = server._lowlevel_server

    async def done(ctx: ServerRequestContext[Any, Any], params: Any) -> EmptyResult:
        return EmptyResult()

    methods.add_request_handler("logging/setLevel", SetLevelRequestParams, done)
    methods.add_request_handler("resources/subscribe", SubscribeRequestParams, done)
    methods.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, done)


def _embedded(uri: str, kind: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=kind, text=text))


def _user(text: str) -> SamplingMessage:
    return SamplingMessage(role="user", content=TextContent(text=text))


def _sample(text: str, tokens: int) -> CreateMessageRequest:
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[_user(text)], max_tokens=tokens))


def _form(message: str, schema: dict[str, Any]) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _answered(context: Context, key: str, kind: type[Any]) -> Any:
    """What the client answered to one question; None if it has not, or something else."""
    said = (context.input_responses or {}).get(key)
    return said if isinstance(said, kind) else None


def with_key(app: ASGIApp, key: str) -> ASGIApp:
    """Every request gets the key that the suite does not know of."""

    async def keyed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {key}".encode())]}
        await app(scope, receive, send)

    return keyed


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys(Path(folder))
        app = serve(everything(), keys, McpSettings(sessions=True))
        async with listening(with_key(app, keys.create("suite", ("agents",)))) as address:
            print(f"{address}/mcp", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suite tests what is deprecated too
    asyncio.run(main())
