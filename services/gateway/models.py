"""`GET /v1/models` and `/v1/models/{id}`: bases, aliases and versions. The engine's own list would show paths."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from services.gateway.call import call_of
from services.gateway.desired import Desired
from services.gateway.errors import send_json
from services.gateway.route import unknown
from services.gateway.versions import Shelf

PATH = "/v1/models"


@dataclass(frozen=True)
class Models:
    """Answers both paths."""

    served: str
    desired: Desired
    shelf: Shelf
    since: int
    """Unix seconds: what has no date of its own is as old as this replica."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cards = {card["id"]: card for card in await asyncio.to_thread(self._cards)}
        wanted = call_of(scope).path.removeprefix(PATH).strip("/")
        if not wanted:
            await send_json(send, 200, {"object": "list", "data": list(cards.values())})
        elif wanted in cards:
            await send_json(send, 200, cards[wanted])
        else:
            raise unknown(wanted)

    def _cards(self) -> list[dict[str, Any]]:
        aliases = self.desired.rollout.aliases.values()
        bases = dict.fromkeys([self.served, *self.desired.routes])
        return [
            *(self._card(alias.name, self.since, root=alias.champion, parent=alias.base) for alias in aliases),
            *(self._card(base, self.since, root=base) for base in bases),
            *(self._card(v.id, int(v.created), root=v.id, parent=v.parent or v.base) for v in self.shelf.all()),
        ]

    def _card(self, identity: str, created: int, root: str, parent: str | None = None) -> dict[str, Any]:
        return {
            "id": identity,
            "object": "model",
            "created": created,
            "owned_by": "trivium",
            "root": root,
            "parent": parent,
        }
