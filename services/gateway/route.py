"""Routing: the version's engine is here (*held*), or in another application of the cluster (*forward*)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.adapters import Adapters
from services.gateway.call import Call, call_of
from services.gateway.desired import Desired
from services.gateway.errors import Refusal
from services.gateway.shadow import Shadows
from services.gateway.versions import Away, Forward, Held, Shelf, Unknown, resolve, shadow


class Forwarder(Protocol):
    async def __call__(self, call: Call, prefix: str, send: Send) -> None: ...


@dataclass(frozen=True)
class Route:
    """Finds the version, holds it for the length of the request, or sends the request on."""

    app: ASGIApp
    served: str
    desired: Desired
    shelf: Shelf
    adapters: Adapters
    forward: Forwarder
    shadows: Shadows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = call_of(scope)
        model = call.body["model"]
        rollout, find = self.desired.rollout, self.shelf.find
        match resolve(model, self.served, rollout, self.desired.routes, find, call.session):
            case Held(version, adapter, alias, arm):
                call.version, call.alias, call.arm = version, alias, arm
                if alias and (unseen := shadow(alias, self.served, rollout, find, call.session)):
                    self.shadows.cast(scope, unseen)
                async with self.adapters.lease(adapter):
                    scope["trivium.served"] = adapter or self.served
                    await self.app(scope, receive, send)
            case Forward(served, prefix):
                if call.forwarded:
                    raise _away(served)  # two gateways that disagree must not play ping-pong
                await self.forward(call, prefix, send)
            case Away(served):
                raise _away(served)
            case Unknown():
                raise unknown(model)


def unknown(model: str) -> Refusal:
    message = f"the model `{model}` does not exist; GET /v1/models lists what does"
    return Refusal(404, message, code="model_not_found", param="model")


def _away(served: str) -> Refusal:
    message = f"no application of this cluster serves `{served}` now; try again, or add it to services/serve.yaml"
    return Refusal(503, message, code="base_unavailable", param="model", retry_after_s=5)
