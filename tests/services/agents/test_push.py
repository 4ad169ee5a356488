from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path

import pytest
from a2a.client import Client
from a2a.types.a2a_pb2 import (
    AuthenticationInfo,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    ListTaskPushNotificationConfigsRequest,
    TaskPushNotificationConfig,
)
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError

from cluster.auth import Principal
from services.agents.addresses import CheckedTransport
from services.agents.contract import View
from services.agents.push import Courier, PushSettings, Subscription, Subscriptions
from tests.services.agents.a2a_world import BINDINGS, QUICK, Hook, hook, message, running, send, until, world
from tests.services.agents.fake_runs import FakeRuns

both = pytest.mark.parametrize("binding", BINDINGS)
ME = Principal("me", ("agents",))


async def ask(client: Client, hook: Hook, text: str = "ask Which?\nsay {}") -> str:
    """A task whose start, question and end the hook is told of. Its id."""
    auth = AuthenticationInfo(scheme="Bearer", credentials="secret")
    config = TaskPushNotificationConfig(id="c-1", url=hook.url, token="token-1", authentication=auth)
    (sent,) = await send(client, message(text), task_push_notification_config=config)
    return sent.task.id


@both
async def test_receiver_is_told_what_the_task_asks_and_how_it_ends(state: Path, binding: str) -> None:
    async with hook() as hears, world(state) as here, here.client(binding, streaming=False) as client:
        id = await ask(client, hears)
        await until(lambda: "INPUT_REQUIRED" in hears.states)
        await send(client, message("This", "m-2", task_id=id))
        await until(lambda: "COMPLETED" in hears.states)
        assert all(set(body) == {"task"} and body["task"]["id"] == id for body in hears.bodies)
        assert hears.bodies[-1]["task"]["artifacts"][0]["parts"][0]["text"] == "This"
        assert {each["authorization"] for each in hears.headers} == {"Bearer secret"}
        assert {each["x-a2a-notification-token"] for each in hears.headers} == {"token-1"}
        assert {each["content-type"] for each in hears.headers} == {"application/a2a+json"}


@both
async def test_configurations_are_kept_listed_and_deleted(state: Path, binding: str) -> None:
    runs = FakeRuns()
    async with world(state, runs) as here, here.client(binding, streaming=False) as client:
        (sent,) = await send(client, message("say Done."))
        id, key = sent.task.id, here.key
        for name in ("a", "b/../c"):
            config = TaskPushNotificationConfig(id=name, task_id=id, url="https://example.com/hook", token=f"t-{name}")
            assert await client.create_task_push_notification_config(config) == config
        unnamed = TaskPushNotificationConfig(task_id=id, url="https://example.com/other")
        assert (await client.create_task_push_notification_config(unnamed)).id == id
    async with world(state, runs) as here, here.client(binding, key=key) as client:
        listed = await client.list_task_push_notification_configs(ListTaskPushNotificationConfigsRequest(task_id=id))
        assert {config.id for config in listed.configs} == {"a", "b/../c", id}
        one = await client.get_task_push_notification_config(GetTaskPushNotificationConfigRequest(task_id=id, id="a"))
        assert (one.url, one.token) == ("https://example.com/hook", "t-a")
        for _ in range(2):
            await client.delete_task_push_notification_config(
                DeleteTaskPushNotificationConfigRequest(task_id=id, id="a")
            )
        with pytest.raises(TaskNotFoundError):
            await client.get_task_push_notification_config(GetTaskPushNotificationConfigRequest(task_id=id, id="a"))
        async with here.client(binding, key=here.other) as theirs:
            with pytest.raises(TaskNotFoundError):
                await theirs.list_task_push_notification_configs(ListTaskPushNotificationConfigsRequest(task_id=id))
    kept = [path for path in (state / "agents" / "push").rglob("*") if path.is_file()]
    assert kept and all(path.stat().st_mode & 0o077 == 0 for path in kept)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/hook",
        "https://10.1.2.3/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/hook",
        "http://example.com/hook",
        "https://user:password@example.com/hook",
        "ftp://example.com/hook",
        "https:///hook",
        "no address",
    ],
)
async def test_address_that_is_refused_starts_no_task(state: Path, url: str) -> None:
    async with world(state, push=PushSettings()) as here, here.client(streaming=False) as client:
        config = TaskPushNotificationConfig(url=url)
        with pytest.raises(InvalidParamsError, match="push notifications go to"):
            await send(client, message("say Done."), task_push_notification_config=config)
        assert here.runs.started == 0


async def test_name_of_a_private_address_is_refused_when_it_is_resolved(state: Path) -> None:
    async def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    settings = PushSettings(plain_http=True, look_every_s=0.01)
    runs, subscriptions = FakeRuns(), Subscriptions(state, settings)
    courier = Courier(runs, subscriptions, settings, lambda: CheckedTransport(settings.allowed, rebound))
    async with hook() as hears:
        view = await runs.start(ME, "clerk", "say Done.")
        url = hears.url.replace("127.0.0.1", "receiver.example.com")
        one = Subscription(run=view.id, id="c", principal="me", url=url)
        subscriptions.put(one)
        async with running(courier.serve()):
            await until(lambda: subscriptions.told(one).startswith("completed"))
        assert not hears.bodies


async def test_receiver_that_is_down_for_a_moment_is_told_later(state: Path) -> None:
    async with hook(500, 429) as hears, world(state) as here, here.client(streaming=False) as client:
        await ask(client, hears, "say Done.")
        await until(lambda: len(hears.bodies) == 3)
        assert hears.states[-1] == "COMPLETED" and not hears.statuses


@pytest.mark.parametrize(("statuses", "calls"), [([500] * 4, 4), ([410], 1), ([307], 1)])
async def test_receiver_that_fails_too_often_or_refuses_is_left_alone(
    state: Path, statuses: list[int], calls: int
) -> None:
    runs, subscriptions = FakeRuns(), Subscriptions(state, QUICK)
    async with hook(*statuses) as hears:
        view = await runs.start(ME, "clerk", "say Done.")
        await until(lambda: runs.view(view.id).state == "completed")
        one = Subscription(run=view.id, id="c", principal="me", url=hears.url)
        subscriptions.put(one)
        async with running(Courier(runs, subscriptions, QUICK).serve()):
            await until(lambda: subscriptions.told(one) and not subscriptions.waiting())
        assert len(hears.bodies) == calls and set(hears.paths) == {"/hook"}


async def test_what_happened_while_nobody_followed_is_told_by_the_next_replica_and_by_one_alone(state: Path) -> None:
    runs, subscriptions = FakeRuns(), Subscriptions(state, QUICK)
    async with hook() as hears:
        view = await runs.start(ME, "clerk", "ask Which?\nsay {}")
        await until(lambda: runs.view(view.id).state == "input-required")
        subscriptions.put(Subscription(run=view.id, id="c", principal="me", url=hears.url))
        async with running(Courier(runs, subscriptions, QUICK).serve()):
            await until(lambda: hears.states == ["INPUT_REQUIRED"])
        await runs.say(ME, view.id, "This")
        await until(lambda: runs.view(view.id).state == "completed")
        replicas = [Courier(runs, Subscriptions(state, QUICK), QUICK) for _ in range(3)]
        async with running(replicas[0].serve()), running(replicas[1].serve()), running(replicas[2].serve()):
            await until(lambda: not subscriptions.waiting())
        assert hears.states == ["INPUT_REQUIRED", "COMPLETED"]


async def test_deleted_configuration_is_told_nothing_more(state: Path) -> None:
    runs, subscriptions = FakeRuns(), Subscriptions(state, QUICK)
    async with hook() as gone, hook() as stays:
        view = await runs.start(ME, "clerk", "ask Which?\nsay {}")
        for name, each in {"gone": gone, "stays": stays}.items():
            subscriptions.put(Subscription(run=view.id, id=name, principal="me", url=each.url))
        async with running(Courier(runs, subscriptions, QUICK).serve()):
            await until(lambda: "INPUT_REQUIRED" in gone.states and "INPUT_REQUIRED" in stays.states)
            subscriptions.drop(view.id, "gone")
            await runs.say(ME, view.id, "This")
            await until(lambda: not subscriptions.waiting())
        assert "COMPLETED" in stays.states and "COMPLETED" not in gone.states


async def test_task_has_so_many_configurations_and_no_more(state: Path) -> None:
    subscriptions = Subscriptions(state, PushSettings(most=2))
    for name in ("a", "b", "b"):
        subscriptions.put(Subscription(run="r", id=name, principal="me", url="https://example.com/"))
    with pytest.raises(ValueError, match="at most 2"):
        subscriptions.put(Subscription(run="r", id="c", principal="me", url="https://example.com/"))


async def test_credentials_cannot_add_header_fields(state: Path) -> None:
    with pytest.raises(ValueError, match="one line"):
        Subscriptions(state, PushSettings()).put(
            Subscription(run="r", id="a", principal="me", url="https://example.com/", token="x\r\nhost: y")
        )


async def test_configurations_go_some_days_after_the_task_has_ended(state: Path) -> None:
    subscriptions = Subscriptions(state, PushSettings(keep_days=1))
    for run in ("old", "new"):
        one = Subscription(run=run, id="a", principal="me", url="https://example.com/")
        subscriptions.put(one)
        subscriptions.tell(one, "completed 1")
        assert subscriptions.close(run, "completed 1")
    (ended,) = [path for path in (state / "agents" / "push").glob("*/ended") if path.parent == subscriptions._of("old")]
    os.utime(ended, (time.time() - 100_000, time.time() - 100_000))
    await asyncio.to_thread(subscriptions.clean)
    assert not subscriptions.of("old") and subscriptions.of("new")


async def test_run_that_cannot_be_followed_for_a_moment_is_followed_later(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs, subscriptions = FakeRuns(), Subscriptions(state, QUICK)
    get, calls = runs.get, itertools.count()

    async def sometimes(who: Principal, run: str) -> View:
        if next(calls) < 2:
            raise OSError("the disk is away")
        return await get(who, run)

    monkeypatch.setattr(runs, "get", sometimes)
    async with hook() as hears:
        view = await runs.start(ME, "clerk", "say Done.")
        subscriptions.put(Subscription(run=view.id, id="c", principal="me", url=hears.url))
        async with running(Courier(runs, subscriptions, QUICK).serve()):
            await until(lambda: "COMPLETED" in hears.states)
    assert "the disk is away" in caplog.text


async def test_configurations_of_a_run_that_is_gone_go_too(state: Path) -> None:
    runs, subscriptions = FakeRuns(), Subscriptions(state, QUICK)
    subscriptions.put(Subscription(run="gone", id="c", principal="me", url="https://example.com/"))
    async with running(Courier(runs, subscriptions, QUICK).serve()):
        await until(lambda: not subscriptions.of("gone") and not subscriptions.waiting())
