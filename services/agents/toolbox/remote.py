"""An agent elsewhere as a tool: it is asked over A2A, and what its task comes to is the result.

Its card says what it is, and a model believes what it is told. So the settings pin the card by its digest: an agent
whose card says anything else than when somebody agreed to it is not asked until somebody agrees again. The card as it
was then is kept under state, so the tools are there whether or not the agent answers just now.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.client.client import Client, ClientCallContext
from a2a.client.errors import A2AClientError
from a2a.extensions.common import HTTP_EXTENSION_HEADER, find_extension_by_uri
from a2a.types.a2a_pb2 import (
    AgentCard,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    Task,
    TaskState,
)
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH, TransportProtocol
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict, Parse, ParseError

from cluster.auth import write_private
from cluster.settings import Strict
from services.agents.a2a_tasks import MEDIA, REPEATABLE
from services.agents.tools import NAME, Invocation, Result, Tool, ToolError

logger = logging.getLogger(__name__)

CARD_S = 10.0
"""Longest that a card may take, and a connection."""
CHECK_S = 300.0
"""How long a card counts as it was when it was last looked at."""
SILENCE_S = 60.0
"""Longest that a stream may say nothing (servers send a comment every 15 s) before its task is asked for instead."""
GRACE_S = 5.0
"""For taking back a task that takes too long."""

_BINDINGS = (TransportProtocol.JSONRPC, TransportProtocol.HTTP_JSON)
_OVER = (
    TaskState.TASK_STATE_COMPLETED,
    TaskState.TASK_STATE_FAILED,
    TaskState.TASK_STATE_CANCELED,
    TaskState.TASK_STATE_REJECTED,
    TaskState.TASK_STATE_INPUT_REQUIRED,
    TaskState.TASK_STATE_AUTH_REQUIRED,
)
"""Nothing more happens to the task until somebody does something."""
_UNTOLD = ("version", "signatures", "iconUrl", "documentationUrl", "provider")
"""Of a card: what may change without anybody's consent."""


class RemoteAgent(Strict):
    """An agent elsewhere. It becomes two tools of the owner `a2a:NAME`: NAME asks it, NAME_answer answers it."""

    url: str
    """Of its card; or where it is, with the card at `.well-known/agent-card.json` below that."""
    digest: str = ""
    """Of its card. Without it the agent is not used, and the error says which digest it has now."""
    authorization: str | None = None
    """Environment variable with what it is sent as `Authorization`, such as `Bearer sk-...`."""
    timeout_s: float = 300.0
    """For one question; then its task is canceled."""
    poll_s: float = 1.0
    """How often a task is asked for that cannot be followed."""


class RemoteAgentsSettings(Strict):
    """Agents elsewhere, by the names that their tools get."""

    agents: dict[str, RemoteAgent] = {}


async def tools(settings: RemoteAgentsSettings, state: Path) -> list[Tool]:
    """Of all agents that the settings name. One that cannot be used is left out, and the log says why."""
    return [tool for name, agent in settings.agents.items() for tool in await _tools(name, agent, state)]


async def _tools(name: str, agent: RemoteAgent, state: Path) -> list[Tool]:
    try:
        return await connect(name, agent, state)
    except ValueError as error:
        logger.warning("%s", error)
        return []


async def connect(
    name: str,
    settings: RemoteAgent,
    state: Path,
    environment: Mapping[str, str] = os.environ,
    transport: httpx.AsyncBaseTransport | None = None,
) -> list[Tool]:
    """The tools of one remote agent. Raises `ValueError` if it cannot be had or its card is not the pinned one."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for an agent; use up to 64 letters, digits, _ and -")
    remote = Remote(name, settings, environment, transport)
    kept = state / "agents" / "cards" / f"{name}.json"
    if not (kept.exists() and remote.agrees(_parsed(kept.read_bytes()))):
        remote.take(await remote.fetch())
        write_private(kept, json.dumps(MessageToDict(remote.card)).encode())
    return remote.tools()


def digest(card: AgentCard) -> str:
    """Of all that a card says to a model, and of where it sends us."""
    told = {key: value for key, value in MessageToDict(card).items() if key not in _UNTOLD}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


class Remote:
    """One agent elsewhere."""

    def __init__(
        self,
        name: str,
        settings: RemoteAgent,
        environment: Mapping[str, str],
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._name, self._settings, self._transport = name, settings, transport
        self._headers = _authorization(name, settings, environment)
        self.card = AgentCard()
        """As it was agreed to."""
        self._checked = -math.inf

    def agrees(self, card: AgentCard) -> bool:
        """Take a card if it is the pinned one."""
        if digest(card) != self._settings.digest:
            return False
        self.card, self._near = card, _near(card, self._settings.url)
        return True

    def take(self, card: AgentCard) -> None:
        """The same of a card that was just fetched. Raises `ValueError` that says what to do."""
        if not self.agrees(card):
            why = "has changed" if self._settings.digest else "is not pinned yet"
            where, found = "".join(_place(self._settings.url)), digest(card)
            raise ValueError(
                f"the card of agent {self._name} {why}; read {where}, and if you agree set its digest to {found}"
            )
        self._checked = time.monotonic()

    async def fetch(self) -> AgentCard:
        try:
            async with self._http() as http, asyncio.timeout(CARD_S):
                return await A2ACardResolver(http, *_place(self._settings.url)).get_agent_card()
        except (A2AError, TimeoutError, httpx.InvalidURL) as error:
            raise ValueError(f"the card of agent {self._name} cannot be had: {error or 'it took too long'}") from None

    def tools(self) -> list[Tool]:
        skills = "".join(f"\n- {skill.name}: {skill.description}" for skill in self.card.skills)
        common: dict[str, Any] = {"owner": f"a2a:{self._name}", "timeout_s": self._settings.timeout_s + GRACE_S}
        message = {"type": "string", "minLength": 1}
        return [
            Tool(
                name=self._name,
                description=f"Ask another agent. {self.card.description}{skills}",
                schema=_object(message=message | {"description": "What it is to do, with all that it needs to know."}),
                run=self.ask,
                idempotent=find_extension_by_uri(self.card, REPEATABLE) is not None,
                **common,
            ),
            Tool(
                name=f"{self._name}_answer",
                description=f"Answer a question that {self._name} asked about a task.",
                schema=_object(task=message | {"description": "Id of the task."}, message=message),
                run=self.answer,
                **common,
            ),
        ]

    async def ask(self, call: Invocation) -> Result:
        return await self._said(call, "")

    async def answer(self, call: Invocation) -> Result:
        return await self._said(call, call.arguments["task"])

    async def _said(self, call: Invocation, task: str) -> Result:
        """What comes of a message; its id is the operation's, so that a server can tell a repetition."""
        await self._still_agreed()
        parts = [Part(text=call.arguments["message"], media_type=MEDIA[0])]
        message = Message(message_id=call.operation, task_id=task, role=Role.ROLE_USER, parts=parts)
        async with self._http() as http:
            talk = _Talk(self._client(http), self._settings.poll_s)
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    return self._result(await talk.outcome(message, self._repeatable))
            except TimeoutError:
                await talk.give_up()
                raise ToolError(
                    f"{self._name} did not answer within {self._settings.timeout_s:g} s, and its task was canceled"
                ) from None
            except A2AError as error:
                raise ToolError(f"{self._name} cannot do that: {error.message}") from None

    async def _still_agreed(self) -> None:
        if time.monotonic() - self._checked > CHECK_S:
            try:
                self.take(await self.fetch())
            except ValueError as error:
                logger.warning("%s", error)
                raise ToolError(f"{self._name} cannot be asked now; do without it") from None

    @property
    def _repeatable(self) -> bool:
        return find_extension_by_uri(self.card, REPEATABLE) is not None

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(CARD_S, read=SILENCE_S),
            transport=self._transport,
            follow_redirects=False,
        )

    def _client(self, http: httpx.AsyncClient) -> Client:
        streams = self.card.capabilities.streaming
        return ClientFactory(
            ClientConfig(
                streaming=streams,
                polling=not streams,
                httpx_client=http,
                supported_protocol_bindings=list(_BINDINGS),
                accepted_output_modes=list(MEDIA),
            )
        ).create(self._near)

    def _result(self, outcome: Task | Message) -> Result:
        if isinstance(outcome, Message):
            return Result(_text(outcome.parts))
        said = _text(outcome.status.message.parts)
        match outcome.status.state:
            case TaskState.TASK_STATE_COMPLETED:
                return Result("\n".join(_text(artifact.parts) for artifact in outcome.artifacts) or said)
            case TaskState.TASK_STATE_INPUT_REQUIRED:
                how = f"To answer, call {self._name}_answer with the task {outcome.id}."
                asked = {"state": "input-required", "task": outcome.id, "question": said}
                return Result(f"{self._name} asks: {said}\n{how}", structured=asked)
            case TaskState.TASK_STATE_AUTH_REQUIRED:
                return Result(f"{self._name} wants somebody to authenticate: {said}", failed=True)
            case state:
                how = TaskState.Name(state).removeprefix("TASK_STATE_").lower()
                return Result(said or f"the task was {how}", failed=True)


class _Talk:
    """One message and what comes of it."""

    def __init__(self, client: Client, poll_s: float) -> None:
        self._client, self._poll_s = client, poll_s
        self._task = ""

    async def outcome(self, message: Message, repeatable: bool) -> Task | Message:
        """The task when nothing more happens to it, or a message instead of one. Raises `A2AError`.

        A stream that breaks costs nothing once the task has an id: the task is asked for until it is over.
        """
        request = SendMessageRequest(message=message, configuration=SendMessageConfiguration())
        context = ClientCallContext(service_parameters={HTTP_EXTENSION_HEADER: REPEATABLE} if repeatable else {})
        try:
            async with aclosing(self._client.send_message(request, context=context)) as stream:  # type: ignore[type-var]
                async for event in stream:
                    if event.HasField("message"):
                        return event.message
                    if self._is_over(event):
                        break
        except A2AClientError:
            if not self._task:
                raise
        while True:
            try:
                task = await self._client.get_task(GetTaskRequest(id=self._task))
                if task.status.state in _OVER:
                    return task
            except A2AClientError as error:
                if _is_refusal(error):
                    raise
            await asyncio.sleep(self._poll_s)

    async def give_up(self) -> None:
        """Take the task back, if there is one and its server lets us."""
        if self._task:
            with suppress(A2AError, TimeoutError):
                async with asyncio.timeout(GRACE_S / 2):
                    await self._client.cancel_task(CancelTaskRequest(id=self._task))

    def _is_over(self, event: StreamResponse) -> bool:
        match event.WhichOneof("payload"):
            case "task":
                self._task, state = event.task.id, event.task.status.state
            case "status_update":
                self._task, state = event.status_update.task_id, event.status_update.status.state
            case _:
                return False
        return state in _OVER


def _is_refusal(error: A2AClientError) -> bool:
    """Whether asking again would say the same; else the server is only out of reach for a moment."""
    cause = error.__cause__
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code < 500


def _authorization(name: str, settings: RemoteAgent, environment: Mapping[str, str]) -> dict[str, str]:
    if settings.authorization is None:
        return {}
    if not (value := environment.get(settings.authorization)):
        raise ValueError(f"agent {name} wants the environment variable {settings.authorization}, which is not set")
    return {"authorization": value}


def _parsed(kept: bytes) -> AgentCard:
    try:
        return Parse(kept, AgentCard(), ignore_unknown_fields=True)
    except ParseError:
        return AgentCard()  # of another release: fetched again


def _place(url: str) -> tuple[str, str]:
    """Where the card is, in the two parts that the SDK wants."""
    parts = httpx.URL(url)
    origin = str(parts.copy_with(raw_path=b"")).rstrip("/")
    path = parts.path if parts.path.endswith(".json") else parts.path.rstrip("/") + AGENT_CARD_WELL_KNOWN_PATH
    return origin, path


def _near(card: AgentCard, url: str) -> AgentCard:
    """The card with those interfaces alone that are where the card is: our key goes nowhere else."""
    here = AgentCard()
    here.CopyFrom(card)
    del here.supported_interfaces[:]
    here.supported_interfaces.extend(one for one in card.supported_interfaces if _origin(one.url) == _origin(url))
    if not any(one.protocol_binding in _BINDINGS for one in here.supported_interfaces):
        raise ValueError(f"the card at {url} names no JSON-RPC or HTTP+JSON interface at the card's own address")
    return here


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = httpx.URL(url)
    return parts.scheme, parts.host, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _text(parts: Any) -> str:
    return "\n".join(_read(part) for part in parts)


def _read(part: Part) -> str:
    match part.WhichOneof("content"):
        case "text":
            return part.text
        case "data":
            return json.dumps(MessageToDict(part.data), ensure_ascii=False)
        case "url":
            return part.url
        case _:
            return f"[{part.filename or 'a file'}, {part.media_type or 'of unknown kind'}, left out]"
