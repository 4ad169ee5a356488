"""The real chain around an engine that says what the task tells it to: no weights, whole agents.

A task is a list, as JSON: what the model says in each turn, a text or calls, `[[tool, arguments], ...]`.
"""

from __future__ import annotations

import json
from typing import Any

from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.log import Log
from cluster.records import Message
from cluster.settings import Settings
from services.gateway.errors import send_json
from services.gateway.limits import Meter
from tests.control.chains import chained


async def engine(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":  # Serve asks every app whether it is ready
        for _ in ("startup", "shutdown"):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    asked = json.loads((await receive())["body"])
    message = said(asked["messages"])
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    if asked.get("return_token_ids"):
        choice |= {"token_ids": [1, 2], "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]}}
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    await send_json(send, 200, {"choices": [choice], "usage": usage})


def said(messages: list[Message]) -> Message:
    """The turn that the newest task tells."""
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    turns = json.loads(messages[last]["content"])
    turn = turns[len([message for message in messages[last:] if message["role"] == "assistant"])]
    if isinstance(turn, str):
        return {"role": "assistant", "content": turn}
    calls = [
        {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for place, (name, arguments) in enumerate(turn)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


class Thinker:
    async def __serve_build_asgi_app__(self) -> ASGIApp:
        return chained(engine, "scripted", Meter("thinker"), Log.here(Settings.from_environment()).writer("gateway"))


deployment: Any = serve.deployment(
    serve.ingress()(Thinker), name="Thinker", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}
)
app = deployment.bind()
