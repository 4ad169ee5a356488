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
        known = (self.served, self.desired.rollout, self.desired.routes, self.shelf.find, call.session)
        match self._told(call) or resolve(model, *known):
            case Held(version, adapter, alias, arm):
                call.version, call.alias, call.arm = version, alias, arm
                if alias and not call.shadow_of and (unseen := shadow(alias, *known)):
                    self.shadows.cast(scope, unseen)
                async with self.adapters.lease(adapter):
                    scope["trivium.served"] = adapter or self.served
                    await self.app(scope, receive, send)
            case Forward(served, prefix) as target:
                if call.forwarded:
                    raise _away(served)  # two gateways that disagree must not play ping-pong
                call.routed = target.routed()
                await self.forward(call, prefix, send)
            case Away(served):
                raise _away(served)
            case Unknown():
                raise unknown(model)

    def _told(self, call: Call) -> Held | Away | None:
        """What the gateway that sent a request on has found it to mean."""
        if call.routed is None:
            return None
        served, version, adapter, alias, arm, _ = call.routed
        return Held(version, adapter, alias, arm) if served == self.served else Away(served)


def unknown(model: str) -> Refusal:
    message = f"the model `{model}` does not exist; GET /v1/models lists what does"
    return Refusal(404, message, code="model_not_found", param="model")


def _away(served: str) -> Refusal:
    message = f"no application of this cluster serves `{served}` now; try again, or add it to services/serve.yaml"
    return Refusal(503, message, code="base_unavailable", param="model", retry_after_s=5)
