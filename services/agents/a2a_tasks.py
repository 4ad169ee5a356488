"""A run in A2A's words: its task, its events, its agent's card. Another view of the same run, never a second truth.

A task's id is its run's, its context the run's thread. A call that wants a person's approval is a question like any
other: `approve` and `deny` answer it.

Source: A2A 1.0, https://a2a-protocol.org/latest/specification/ (section numbers below are its).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

from a2a.server.events import Event
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentExtension,
    AgentInterface,
    AgentSkill,
    Artifact,
    HTTPAuthSecurityScheme,
    Message,
    Part,
    Role,
    SecurityRequirement,
    SecurityScheme,
    StringList,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import ContentTypeNotSupportedError, InvalidParamsError
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from cluster.auth import Principal
from cluster.records import Step
from services.agents.contract import ENDED, Agent, Runs, View

REPEATABLE = "urn:trivium:a2a:repeatable-messages:1"
"""Extension of ours: a message that starts a task and comes again under its id finds the task that it started. Without
it a message id says nothing (3.3.1 leaves that to the agent), and each message starts a task."""
MEDIA = ("text/plain", "application/json")
"""What goes in and out."""
BEARER = "bearer"
"""Name of the security scheme in the card."""

_VERSION = version("trivium")
_YES, _NO = ("approve", "yes"), ("deny", "decline", "no")


# The card


def card(name: str, agent: Agent, base: str) -> AgentCard:
    """What an agent says of itself. `base` is where the agents are, with scheme and host."""
    url = f"{base}/{name}/a2a"
    bindings = ("JSONRPC", "HTTP+JSON")
    return AgentCard(
        name=name,
        description=agent.description,
        version=_VERSION,
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding=binding, protocol_version="1.0") for binding in bindings
        ],
        capabilities=AgentCapabilities(
            streaming=True,
            push_notifications=True,
            extensions=[AgentExtension(uri=REPEATABLE, description="The same message id again is the same task.")],
        ),
        security_schemes={
            BEARER: SecurityScheme(
                http_auth_security_scheme=HTTPAuthSecurityScheme(
                    scheme="Bearer", description="An API key of this cluster with the scope `agents`."
                )
            )
        },
        security_requirements=[SecurityRequirement(schemes={BEARER: StringList()})],
        default_input_modes=MEDIA,
        default_output_modes=MEDIA[:1],
        skills=[AgentSkill(id=name, name=name, description=agent.description, tags=["agent"])],
    )


# What comes in


def text(message: Message) -> str:
    """What a message says: its texts, and its data as JSON. Raises A2A's errors for what no agent here takes."""
    if message.role != Role.ROLE_USER:
        raise InvalidParamsError("a message to an agent has the role ROLE_USER")
    said = "\n".join(_read(part) for part in message.parts).strip()
    if not said:
        raise InvalidParamsError("the message says nothing; give it a part with text")
    return said


def decision(message: Message) -> tuple[bool, str | None] | None:
    """Whether a call may be made, if that is what a message says; and what the call came to, where the agent lost
    that. As data, `{"approved": true}`, or in a word."""
    for part in message.parts:
        if part.HasField("data"):
            match MessageToDict(part.data):
                case {"approved": bool(approved), "result": str(result)}:
                    return approved, result
                case {"approved": bool(approved)}:
                    return approved, None
    word = " ".join(part.text for part in message.parts).strip().lower()
    return (word in _YES, None) if word in _YES + _NO else None


def run_id(who: Principal, agent: str, message_id: str) -> str:
    """Of the run that a repeatable message starts: another caller's message of the same id is another."""
    return "a2a-" + hashlib.sha256(json.dumps([who.id, agent, message_id]).encode()).hexdigest()[:32]


def _read(part: Part) -> str:
    kind = part.WhichOneof("content")
    if kind in ("raw", "url") or (part.media_type and part.media_type.partition(";")[0].strip() not in MEDIA):
        raise ContentTypeNotSupportedError(f"this agent takes {' and '.join(MEDIA)}, as text or data")
    return json.dumps(MessageToDict(part.data), ensure_ascii=False) if kind == "data" else part.text


# What goes out


def settled(view: View) -> bool:
    """Whether nothing more happens until somebody says something: A2A's terminal and interrupted states."""
    return view.state in ENDED or view.state == "input-required"


def at_work(view: View) -> View:
    """A run whose question was answered, before it says so itself."""
    return view.model_copy(update={"state": "working", "question": None, "operation": None})


def task(view: View) -> Task:
    asked = Message(message_id=f"{view.id}/task", role=Role.ROLE_USER, parts=[Part(text=view.task)])
    return Task(
        id=view.id,
        context_id=view.thread,
        status=status(view),
        artifacts=[] if view.answer is None else [_artifact(view.answer)],
        history=[_placed(asked, view)],
    )


def status(view: View) -> TaskStatus:
    found = TaskStatus(state=_state(view.state), timestamp=moment(view.updated))
    said = view.question if view.state == "input-required" else view.reason
    if said:
        parts = [Part(text=said, media_type="text/plain")]
        if view.state == "input-required" and view.operation is not None:
            about = ParseDict({"operation": view.operation}, Value())
            parts.append(Part(data=about, media_type="application/json"))
        number = moment(view.updated).ToMilliseconds()
        message = Message(message_id=f"{view.id}/{view.state}/{number}", role=Role.ROLE_AGENT, parts=parts)
        found.message.CopyFrom(_placed(message, view))
    return found


def moment(seconds: float) -> Timestamp:
    """Unix seconds as A2A's time stamps are: in milliseconds (5.6.1)."""
    found = Timestamp()
    found.FromMilliseconds(round(seconds * 1000))
    return found


async def follow(runs: Runs, who: Principal, view: View, poll_s: float) -> AsyncIterator[Step | View]:
    """What happens to a run after `view`, until it has ended: each step, and the run itself whenever it has ended or
    asks. While it waits for an answer it is looked at every `poll_s` seconds."""
    since, known = 0, view.updated
    while view.state not in ENDED:
        async for step in runs.follow(who, view.id, since):
            since = step.number + 1
            if step.time > known:
                yield step
        before, view = view, await runs.get(who, view.id)
        if view == before:
            await asyncio.sleep(poll_s)
        elif settled(view):
            yield view


async def settle(runs: Runs, who: Principal, view: View, poll_s: float, answered: bool) -> View:
    """The run once it has ended or asks. A question that was `answered` can still be there for a moment, where it is a
    sub-agent's."""
    if settled(view) and not answered:
        return view
    async with aclosing(follow(runs, who, view, poll_s)) as news:  # type: ignore[type-var]
        return await anext(item async for item in news if isinstance(item, View))


async def events(
    runs: Runs, who: Principal, view: View, poll_s: float, *, answered: bool = False, beyond: bool = False
) -> AsyncIterator[Event]:
    """A stream (3.1.2, 3.1.6): the task, an update for each step of its run, its artifact and how it ended. All streams
    of a run say the same, because its journal does. It ends with the run; or where it asks, unless it goes `beyond`.
    """
    yield task(at_work(view) if answered else view)
    if view.state == "input-required" and not answered and not beyond:
        return
    async with aclosing(follow(runs, who, view, poll_s)) as news:  # type: ignore[type-var]
        async for item in news:
            if isinstance(item, Step):
                working = TaskStatus(state=TaskState.TASK_STATE_WORKING, timestamp=moment(item.time))
                step: dict[str, Any] = {"step": item.number, "event": item.event}
                yield TaskStatusUpdateEvent(task_id=view.id, context_id=view.thread, status=working, metadata=step)
                continue
            if item.answer is not None:
                artifact = _artifact(item.answer)
                yield TaskArtifactUpdateEvent(
                    task_id=view.id, context_id=view.thread, artifact=artifact, last_chunk=True
                )
            yield TaskStatusUpdateEvent(task_id=view.id, context_id=view.thread, status=status(item))
            if item.state == "input-required" and not beyond:
                return


def _state(state: str) -> TaskState:
    return TaskState.Value(f"TASK_STATE_{state.upper().replace('-', '_')}")


def _artifact(answer: str) -> Artifact:
    return Artifact(artifact_id="answer", name="answer", parts=[Part(text=answer, media_type="text/plain")])


def _placed(message: Message, view: View) -> Message:
    message.task_id, message.context_id = view.id, view.thread
    return message
