"""The gateway's real chain around an engine that is none."""

from __future__ import annotations

from starlette.types import ASGIApp

from cluster import auth
from cluster.auth import Keys
from cluster.records import Entry
from cluster.settings import Settings
from services.gateway.adapters import Adapters
from services.gateway.chain import Parts, chain
from services.gateway.desired import Desired
from services.gateway.forward import HttpForwarder
from services.gateway.keeper import Keeper, Writer
from services.gateway.limits import Meter
from services.gateway.versions import Shelf


class Nowhere:
    """Records of these tests would be in the way of others'."""

    async def append(self, entry: Entry) -> None:
        pass

    async def load(self, version: str) -> None:
        raise ValueError("this engine has no adapters")

    async def unload(self, version: str) -> None:
        pass


def chained(engine: ASGIApp, served: str, meter: Meter, writer: Writer | None = None) -> ASGIApp:
    """Left out, `writer` keeps nothing."""
    here, nowhere = Settings.from_environment(), Nowhere()
    mint_key = auth.mint_key(here.state)
    return chain(
        engine,
        Parts(
            served=served,
            keys=Keys(here.state),
            mint_key=mint_key,
            desired=Desired(here.state),
            shelf=Shelf(here.state / "models"),
            adapters=Adapters(nowhere, most=1),
            forward=HttpForwarder(here.base_url.removesuffix("/v1"), mint_key),
            keeper=Keeper(writer or nowhere),
            meter=meter,
        ),
    )
