"""The smallest Serve applications: one that answers what it was deployed with, and some that go wrong."""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from starlette.requests import Request


@serve.deployment
class Echo:
    def __init__(self, arguments: dict[str, Any]) -> None:
        if "fail" in arguments:
            raise ValueError(arguments["fail"])
        self.arguments = arguments

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"arguments": self.arguments, "pid": os.getpid(), "state": os.environ.get("TRIVIUM_STATE")}


def build(arguments: dict[str, Any]) -> serve.Application:
    return Echo.options(ray_actor_options={"num_cpus": arguments.get("cpus", 0.1)}).bind(arguments)
