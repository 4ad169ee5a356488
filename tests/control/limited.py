"""Two replicas of the real chain around an engine that only takes time: what limits need to be tried over replicas."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.limits import Meter
from services.limiter import RayBook
from tests.control.chains import chained

STEP_S = 0.02
"""How long a token takes."""


async def engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Streams `max_tokens` words, one at a time."""
    if scope["type"] == "lifespan":  # Serve asks every app whether it is ready
        for _ in ("startup", "shutdown"):
            await send({"type": f"{(await receive())['type']}.complete"})
        return
    asked = json.loads((await receive())["body"])
    words, usage = asked["max_tokens"], {"prompt_tokens": 5, "completion_tokens": asked["max_tokens"]}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for word in range(words):
        await asyncio.sleep(STEP_S)
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop" if word == words - 1 else None}
        await send(event({"choices": [choice]}))
    await send(event({"choices": [], "usage": usage}))
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def event(data: dict[str, Any]) -> Message:
    return {"type": "http.response.body", "body": b"data: " + json.dumps(data).encode() + b"\n\n", "more_body": True}


class Limited:
    async def __serve_build_asgi_app__(self) -> ASGIApp:
        replica = serve.get_replica_context().replica_tag
        meter = Meter(replica, RayBook())
        self._beat = asyncio.create_task(meter.beat())
        app = chained(engine, "paced", meter)

        async def signed(scope: Scope, receive: Receive, send: Send) -> None:
            async def sign(message: Message) -> None:
                if message["type"] == "http.response.start":
                    who = [(b"x-replica", replica.encode()), (b"x-process", str(os.getpid()).encode())]
                    message = {**message, "headers": [*message["headers"], *who]}
                await send(message)

            await app(scope, receive, sign)

        return signed


deployment: Any = serve.deployment(
    serve.ingress()(Limited),
    name="Limited",
    num_replicas=2,
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0},
    health_check_period_s=1,
)
app = deployment.bind()
