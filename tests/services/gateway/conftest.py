"""A gateway around a fake engine; log, keys, ids, decisions and versions are the real ones, in the test's own state."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from cluster import auth, decisions
from cluster.auth import Keys
from cluster.decisions import Alias
from cluster.log import Log, LogSettings, LogUnavailable
from cluster.records import Decision, Entry, Feedback, Record, Version
from services.gateway.adapters import Adapters
from services.gateway.chain import Parts, chain
from services.gateway.desired import Desired
from services.gateway.edge import Edge
from services.gateway.forward import HttpForwarder
from services.gateway.keeper import Keeper
from services.gateway.limits import Meter
from services.gateway.versions import Shelf
from tests.services.gateway.engine import FakeEngine


class FakeAdapters:
    """The engine's side of adapters: remembers what it loaded, and can be told to fail or to wait."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.broken: dict[str, str] = {}
        self.gate: asyncio.Event | None = None

    async def load(self, version: str) -> None:
        self.loads.append(version)
        if self.gate:
            await self.gate.wait()
        if version in self.broken:
            raise ValueError(self.broken[version])

    async def unload(self, version: str) -> None:
        self.unloads.append(version)


class Disk:
    """The real writer, behind a switch: `hold()` makes fsync slow, `full` makes it fail."""

    def __init__(self, writer: Any) -> None:
        self.writer, self.full = writer, False
        self.free = asyncio.Event()
        self.free.set()
        self.waiting = asyncio.Event()

    async def append(self, entry: Entry) -> None:
        if self.full:
            raise LogUnavailable("no space left on device")
        self.waiting.set()
        await self.free.wait()
        await self.writer.append(entry)


@dataclass
class Bench:
    """A gateway under test."""

    app: ASGIApp
    client: httpx.AsyncClient
    engine: FakeEngine
    adapters: FakeAdapters
    parts: Parts
    disk: Disk
    state: Path
    key: str
    log: Log
    headers: dict[str, str] = field(default_factory=dict)

    async def chat(
        self, model: str = "assistant", text: str = "hi", headers: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def entries(self) -> list[Entry]:
        await self.parts.keeper.settle()
        return list(self.log.entries())

    async def records(self) -> list[Record]:
        return [entry for entry in await self.entries() if isinstance(entry, Record)]

    async def feedback(self) -> list[Feedback]:
        return [entry for entry in await self.entries() if isinstance(entry, Feedback)]

    def decide(self, action: Any, version: str, alias: str = "assistant", base: str = "seed", **more: Any) -> None:
        sequence = len(decisions.read(self.state))
        path = decisions.path(self.state, sequence)
        path.parent.mkdir(parents=True, exist_ok=True)
        said = {"alias": alias, "version": version, "base": base, "actor": "t", "reason": "", **more}
        decision = Decision(sequence=sequence, time=0, action=action, **said)
        path.write_text(decision.model_dump_json())
        self.parts.desired.refresh()

    def publish(self, name: str, number: int, base: str = "seed", form: Any = "adapter") -> None:
        folder = self.state / "models" / name / str(number)
        folder.mkdir(parents=True)
        version = Version(name=name, number=number, base=base, form=form, created=1.0)
        (folder / "version.json").write_text(version.model_dump_json())


def client_of(app: ASGIApp, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway", headers={"authorization": f"Bearer {key}"}
    )


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    """Makes gateways on one state folder, as the replicas of a cluster share one."""
    made: list[Bench] = []

    def bench(served: str = "seed", prefix: str = "", forward: Any = None, book: Any = None, **settings: Any) -> Bench:
        state = tmp_path / "state"
        key = auth.first_key(state)
        mint_key = auth.mint_key(state)
        engine, adapters = FakeEngine(), FakeAdapters()
        desired = Desired(state, Alias("assistant", served, "assistant@0"))
        desired.publish(served, prefix or "/")
        desired.refresh()
        log = Log(state / "log", LogSettings())
        disk = Disk(log.writer(f"gateway-{len(made)}"))
        parts = Parts(
            served=served,
            keys=Keys(state),
            mint_key=mint_key,
            desired=desired,
            shelf=Shelf(state / "models"),
            adapters=Adapters(adapters, most=2),
            forward=forward or HttpForwarder("http://127.0.0.1:9", mint_key),
            keeper=Keeper(disk, retry_s=0.05),
            meter=Meter(f"replica-{len(made)}", book),
        )
        parts = replace(parts, **settings)
        app = Edge(chain(engine.app, parts), mint_key)
        made.append(Bench(app, client_of(app, key), engine, adapters, parts, disk, state, key, log))
        return made[-1]

    yield bench
    for one in made:
        await one.client.aclose()
        await one.parts.keeper.settle()
        with contextlib.suppress(AttributeError):
            await one.parts.forward.close()  # type: ignore[attr-defined]
        one.disk.writer.close()


@pytest.fixture
def gateway(make: Callable[..., Bench]) -> Bench:
    return make()


def events(text: str) -> list[Any]:
    """The JSON of a stream's events; `[DONE]` as it is."""
    payloads = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


class Client:
    """An ASGI client that sees bytes as they come, and can hang up."""

    def __init__(
        self, app: ASGIApp, key: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        content = json.dumps(body).encode()
        given = {"authorization": f"Bearer {key}", "content-type": "application/json", **(headers or {})}
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "client": None,
            "server": None,
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }  # fmt: skip
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": content, "more_body": False})
        self.status: int | None = None
        self.received = b""
        self.ended = False
        self.task = asyncio.ensure_future(app(self._scope, self._inbox.get, self._take))  # type: ignore[arg-type]

    async def _take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.received += message.get("body", b"")
            self.ended = not message.get("more_body", False)

    async def hang_up(self) -> None:
        """As Serve does: the application's `receive` says so, and its task is cancelled."""
        self._inbox.put_nowait({"type": "http.disconnect"})
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
