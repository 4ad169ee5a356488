"""Push notifications: whoever gave an address is told there when a task starts to work, asks, or ends.

    state/agents/push/RUN/ID.json    a configuration, as it was given
                          ID.told    the last state that its address was told
                          lock       held by the replica that follows the run
                          ended      nothing is left to tell

RUN and ID are digests, because a caller chose what they stand for. What is not told yet is found by whichever replica
holds the lock, so a notification outlives the replica that took its configuration: it comes at least once.
What is sent is always the whole task as it is then. Source: A2A 1.0, sections 3.1.7 to 3.1.10 and 4.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

import httpx
from a2a.types.a2a_pb2 import StreamResponse
from a2a.utils.constants import A2A_JSON_MEDIA_TYPE
from google.protobuf.json_format import MessageToDict
from pydantic import AfterValidator, Field

from cluster import durable
from cluster.auth import Principal, write_private
from cluster.records import Frozen
from cluster.settings import Strict
from services.agents.a2a_tasks import follow, task
from services.agents.addresses import CheckedTransport, Refused, is_public
from services.agents.contract import ENDED, Runs, View

logger = logging.getLogger(__name__)

_CLEAN_S = 3600.0
"""How often what is old is removed."""
_LONGEST_WAIT_S = 60.0
"""Between two attempts."""


def _networks(given: tuple[str, ...]) -> tuple[str, ...]:
    for each in given:
        ip_network(each)
    return given


class PushSettings(Strict):
    """Where notifications may go, and how hard they are tried."""

    allow: Annotated[tuple[str, ...], AfterValidator(_networks)] = ()
    """Networks beside the public internet, such as 10.0.0.0/8, in which receivers may be."""
    plain_http: bool = False
    """Also to addresses without TLS."""
    attempts: Annotated[int, Field(ge=1)] = 8
    """For one state of one task."""
    backoff_s: float = 1.0
    """Before the second attempt; twice as long before each further one, up to a minute."""
    timeout_s: float = 10.0
    """Of one attempt."""
    look_every_s: float = 1.0
    """How soon a run is followed that nobody follows, and how soon one is that waited for an answer."""
    most: int = 8
    """Configurations of one task."""
    keep_days: float = 7.0
    """How long they stay once the task has ended."""

    def allowed(self, address: str) -> bool:
        """Whether notifications may go to an IP address."""
        if is_public(address):
            return True
        return any(ip_address(address.partition("%")[0]) in ip_network(network) for network in self.allow)


class Subscription(Frozen):
    """Whom to tell of one run, and how they know us."""

    run: str
    id: str
    principal: str
    """Whose run it is."""
    url: str
    token: str = Field("", repr=False)
    """Sent as `X-A2A-Notification-Token`."""
    scheme: str = ""
    credentials: str = Field("", repr=False)
    """Sent as `Authorization`, after the scheme."""


class Subscriptions:
    """All of one state folder. Readable for this user only: they hold their receivers' credentials."""

    def __init__(self, state: Path, settings: PushSettings) -> None:
        self._folder, self._settings = state / "agents" / "push", settings

    def put(self, subscription: Subscription) -> None:
        """Add it, or replace the one with its id. Raises `ValueError` for one that cannot be."""
        self.check(subscription)
        others = [one for one in self.of(subscription.run) if one.id != subscription.id]
        if len(others) >= self._settings.most:
            raise ValueError(f"a task has at most {self._settings.most} push notification configurations; delete one")
        folder = self._of(subscription.run)
        path = folder / f"{_digest(subscription.id)}.json"
        write_private(path, subscription.model_dump_json().encode())
        path.with_suffix(".told").unlink(missing_ok=True)
        (folder / "ended").unlink(missing_ok=True)  # last: `close` looks for what came after it wrote the file

    def check(self, subscription: Subscription) -> None:
        """What can be said of an address before anything is sent there; the rest is said when it is resolved."""
        try:
            url = httpx.URL(subscription.url)
        except httpx.InvalidURL:
            url = httpx.URL("")
        schemes = ("https", "http") if self._settings.plain_http else ("https",)
        if url.scheme not in schemes or not url.host or url.userinfo:
            raise ValueError(f"push notifications go to a URL with {' or '.join(schemes)}, a host and no user")
        if _is_address(url.host) and not self._settings.allowed(url.host):
            raise ValueError(f"{url.host} is not public; push notifications go to public addresses only")
        if any(not c.isprintable() for c in subscription.token + subscription.scheme + subscription.credentials):
            raise ValueError("the token and the credentials of a push notification are one line of text each")

    def of(self, run: str) -> list[Subscription]:
        return list(_read(self._of(run)))

    def drop(self, run: str, id: str) -> None:
        path = self._of(run) / f"{_digest(id)}.json"
        path.unlink(missing_ok=True)
        path.with_suffix(".told").unlink(missing_ok=True)
        if path.parent.exists():
            durable.sync_folder(path.parent)

    def told(self, subscription: Subscription) -> str:
        """What was told last; empty for nothing."""
        path = self._of(subscription.run) / f"{_digest(subscription.id)}.told"
        return path.read_text() if path.exists() else ""

    def tell(self, subscription: Subscription, news: str) -> None:
        """Remember that it was told; in a file of its own, so that one that was deleted meanwhile stays deleted."""
        write_private(self._of(subscription.run) / f"{_digest(subscription.id)}.told", news.encode())

    def waiting(self) -> list[Subscription]:
        """One of each run of which somebody is still to be told something."""
        folders = [path for path in self._folder.glob("*") if not (path / "ended").exists()]
        return [first for folder in folders if (first := next(_read(folder), None)) is not None]

    def close(self, run: str, news: str) -> bool:
        """Nothing more will happen to the run. False if somebody is there who has not been told."""
        write_private(self._of(run) / "ended", b"")
        if done := all(self.told(one) == news for one in self.of(run)):
            return done
        (self._of(run) / "ended").unlink(missing_ok=True)
        return done

    def clean(self) -> None:
        """Remove what belongs to tasks that ended long ago."""
        before = time.time() - self._settings.keep_days * 86_400
        for ended in self._folder.glob("*/ended"):
            with contextlib.suppress(FileNotFoundError):
                if ended.stat().st_mtime < before:
                    shutil.rmtree(ended.parent)

    @contextlib.contextmanager
    def following(self, run: str) -> Iterator[bool]:
        """Whether this replica follows the run within the block: no other does then."""
        durable.make_folder(self._of(run), mode=0o700)
        descriptor = os.open(self._of(run) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def _of(self, run: str) -> Path:
        return self._folder / _digest(run)


class Courier:
    """Tells those who want to be told. Each replica has one; the locks share the runs out among them."""

    def __init__(
        self,
        runs: Runs,
        subscriptions: Subscriptions,
        settings: PushSettings,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._runs, self._subscriptions, self._settings = runs, subscriptions, settings
        self._transport = transport or (lambda: CheckedTransport(settings.allowed))

    async def serve(self) -> None:
        """Until cancelled."""
        busy: set[str] = set()
        cleaned = 0.0
        transport, timeout = self._transport(), self._settings.timeout_s
        async with (
            httpx.AsyncClient(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            while True:
                for one in await asyncio.to_thread(self._subscriptions.waiting):
                    if one.run not in busy:
                        busy.add(one.run)
                        group.create_task(self._keep(client, one, busy))
                if time.monotonic() - cleaned > _CLEAN_S:
                    cleaned = time.monotonic()
                    await asyncio.to_thread(self._subscriptions.clean)
                await asyncio.sleep(self._settings.look_every_s)

    async def _keep(self, client: httpx.AsyncClient, one: Subscription, busy: set[str]) -> None:
        try:
            with self._subscriptions.following(one.run) as ours:
                if ours:
                    await self._follow(client, one)
        except Exception:  # one run that cannot be followed must not silence the others; it is tried again
            logger.exception("cannot follow run %s for push notifications", one.run)
        finally:
            busy.discard(one.run)

    async def _follow(self, client: httpx.AsyncClient, one: Subscription) -> None:
        who = Principal(one.principal, ("agents",))
        try:
            view = await self._runs.get(who, one.run)
        except KeyError:
            for gone in self._subscriptions.of(one.run):
                self._subscriptions.drop(gone.run, gone.id)
            self._subscriptions.close(one.run, "")
            return
        await self._tell(client, view)
        async with aclosing(follow(self._runs, who, view, self._settings.look_every_s)) as news:  # type: ignore[type-var]
            async for item in news:
                view = item if isinstance(item, View) else view.model_copy(update={"state": "working"})
                await self._tell(client, view)
        while view.state in ENDED and not await asyncio.to_thread(self._subscriptions.close, view.id, _news(view)):
            await self._tell(client, view)

    async def _tell(self, client: httpx.AsyncClient, view: View) -> None:
        """Everybody who does not know yet, side by side."""
        async with asyncio.TaskGroup() as group:
            for one in await asyncio.to_thread(self._subscriptions.of, view.id):
                if await asyncio.to_thread(self._subscriptions.told, one) != _news(view):
                    group.create_task(self._deliver(client, one, view))

    async def _deliver(self, client: httpx.AsyncClient, one: Subscription, view: View) -> None:
        outcome: Outcome = "failed"
        for attempt in range(self._settings.attempts):
            if attempt:
                await asyncio.sleep(min(self._settings.backoff_s * 2 ** (attempt - 1), _LONGEST_WAIT_S))
            if one not in await asyncio.to_thread(self._subscriptions.of, view.id):
                return  # deleted or replaced meanwhile
            outcome = await self._post(client, one, view)
            if outcome != "failed":
                break
        if outcome != "delivered":
            logger.warning("push notification of run %s to %s: %s", view.id, httpx.URL(one.url).host, outcome)
        await asyncio.to_thread(self._subscriptions.tell, one, _news(view))

    async def _post(self, client: httpx.AsyncClient, one: Subscription, view: View) -> Outcome:
        headers = {"content-type": A2A_JSON_MEDIA_TYPE}
        if one.token:
            headers["x-a2a-notification-token"] = one.token
        if one.scheme and one.credentials:
            headers["authorization"] = f"{one.scheme} {one.credentials}"
        body = json.dumps(MessageToDict(StreamResponse(task=task(view))))
        try:
            async with client.stream("POST", one.url, content=body, headers=headers) as response:
                return _outcome(response.status_code)
        except Refused:
            return "refused: its address is not public"
        except httpx.HTTPError:
            return "failed"


Outcome = Literal["delivered", "failed", "refused: its address is not public", "refused by its receiver"]
"""`failed` may be tried again."""


def _outcome(status: int) -> Outcome:
    """A redirect is a refusal: where it leads, nobody has agreed to."""
    if 200 <= status < 300:
        return "delivered"
    return "failed" if status in (408, 425, 429) or status >= 500 else "refused by its receiver"


def _news(view: View) -> str:
    """What there is to tell: that it works, once; each question, and the end."""
    return "working" if view.state in ("submitted", "working") else f"{view.state} {view.updated}"


def _read(folder: Path) -> Iterator[Subscription]:
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            yield Subscription.model_validate_json(path.read_bytes())


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
