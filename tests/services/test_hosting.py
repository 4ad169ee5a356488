"""Applications of full-weight versions, brought up and taken down beside a Serve that only remembers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster import models
from cluster.admin import Unavailable
from cluster.registry import Registry
from cluster.settings import Settings
from services import hosting
from services.gateway.desired import Desired
from services.hosting import Hosts
from services.replicas import CannotLoad, Heard
from services.rollout import append
from tests.services.test_rollout import draft

ASSISTANT = {"name": "assistant", "route_prefix": "/", "args": {"model": "seed", "alias": "assistant"}}
OTHER = {"name": "other", "route_prefix": "/other", "args": {}}
FULL, NAME = "assistant@1", "assistant-v1"


class Serve:
    """Serve's configuration API; an application that it is told of gets `status` and `message`."""

    def __init__(self, story: list[str]) -> None:
        self.applications: list[dict[str, Any]] = [ASSISTANT, OTHER]
        self.status, self.message = "RUNNING", ""
        self.story = story

    def details(self) -> dict[str, Any]:
        told = {"source": "declarative", "message": self.message, "deployments": {}, "status": self.status}
        found = {each["name"]: {**told, "deployed_app_config": each} for each in self.applications}
        return {"applications": found, "proxies": {"node": {"status": "HEALTHY"}}}

    def deploy(self, config: dict[str, Any]) -> None:
        before, self.applications = {each["name"] for each in self.applications}, config["applications"]
        after = {each["name"] for each in self.applications}
        self.story += [f"start {name}" for name in sorted(after - before)]
        self.story += [f"end {name}" for name in sorted(before - after)]

    def unmet(self) -> bool:
        return False


class World:
    """A state folder with an alias and a full-weight version, a Serve, and one gateway that says what it knows."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.story = state, list[str]()
        self.settings = Settings(state=state)
        self.registry = Registry(self.settings)
        self.registry.create("assistant", "seed", "full", None, None, None, models.seed_folder())
        self.serve = Serve(self.story)
        self.hosts = Hosts(self.settings, self.registry)
        self.hosts._serve = self.serve  # type: ignore[assignment]
        self.behind = 0
        """How many decisions the gateway has not seen."""
        self.meanwhile: list[Any] = []
        """What somebody else does while the gateways are asked."""
        monkeypatch.setattr(hosting, "ask", self.ask)
        self.decide("create", "assistant@0")

    def decide(self, action: Any, version: str) -> None:
        self.sequence = append(self.state, draft(action, version)).sequence

    async def ask(self, sequence: int, within_s: float) -> list[Heard]:
        if self.meanwhile:
            self.meanwhile.pop()()
        routes = Desired(self.state)
        routes.refresh()
        self.story.append("asked, with a route" if FULL in routes.routes else "asked, without a route")
        reply = {"replica": "a", "sequence": sequence - self.behind, "base": "seed", "versions": [], "errors": {}}
        return [Heard("assistant", 1, [reply])]

    def publish(self) -> None:
        Desired(self.state).publish(FULL, f"/versions/{NAME}")


@pytest.fixture
def world(state: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(state, monkeypatch)


@pytest.fixture
async def served(world: World) -> World:
    """The version is staged, has its application, and gateways have a route to it."""
    world.decide("stage", FULL)
    await world.hosts.bring(FULL, within_s=5)
    world.publish()
    world.story.clear()
    return world


async def test_what_is_staged_gets_an_application_beside_all_others(world: World) -> None:
    world.decide("stage", FULL)
    await world.hosts.bring(FULL, within_s=5)
    assert [each["name"] for each in world.serve.applications] == [NAME, "assistant", "other"]
    assert world.serve.applications[1:] == [ASSISTANT, OTHER]
    await world.hosts.settle()
    await world.hosts.bring(FULL, within_s=5)
    assert [line for line in world.story if line.startswith(("start", "end"))] == [f"start {NAME}"], "once"


async def test_it_ends_only_when_all_gateways_know_the_decision_and_then_have_no_route(served: World) -> None:
    served.decide("reject", FULL)
    await served.hosts.settle()
    assert served.story == ["asked, with a route", "asked, without a route", f"end {NAME}"]
    assert served.serve.applications == [ASSISTANT, OTHER]


async def test_a_gateway_that_is_late_is_waited_for(served: World) -> None:
    served.decide("reject", FULL)
    served.behind = 1
    following = asyncio.create_task(served.hosts.follow(every_s=0.01))
    async with asyncio.timeout(5):
        while len(served.story) < 3:
            await asyncio.sleep(0.01)
        assert set(served.story) == {"asked, with a route"}, "it is still called"
        served.behind = 0
        while f"end {NAME}" not in served.story:
            await asyncio.sleep(0.01)
    following.cancel()


async def test_what_is_needed_again_meanwhile_stays(served: World) -> None:
    served.decide("reject", FULL)
    served.meanwhile = [lambda: served.decide("stage", FULL)]
    await served.hosts.settle()
    assert NAME in {each["name"] for each in served.serve.applications}


async def test_champion_and_what_a_rollback_leads_to_stay(served: World) -> None:
    served.decide("promote", FULL)
    await served.hosts.settle()
    for action, version in (("stage", "assistant@2"), ("promote", "assistant@2"), ("stage", "assistant@3")):
        served.decide(action, version)
        await served.hosts.settle()
    assert served.story == []
    served.decide("promote", "assistant@3")
    await served.hosts.settle()
    assert served.story[-1] == f"end {NAME}"


async def test_nobody_asks_serve_where_there_are_no_such_versions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def details() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return Serve.details(world.serve)

    monkeypatch.setattr(world.serve, "details", details)
    await world.hosts.settle()
    first = asked
    world.decide("stage", "assistant@2")
    await world.hosts.settle()
    assert first and asked == first


async def test_one_that_dies_at_its_start_is_refused_with_serves_words(world: World) -> None:
    world.serve.status, world.serve.message = "DEPLOY_FAILED", "the weights do not fit the configuration"
    world.decide("stage", FULL)
    with pytest.raises(CannotLoad, match=f"application {NAME} does not run: the weights do not fit"):
        await world.hosts.bring(FULL, within_s=5)


async def test_one_that_takes_too_long_is_refused(world: World) -> None:
    world.serve.status = "DEPLOYING"
    world.decide("stage", FULL)
    with pytest.raises(Unavailable, match=f"{FULL} is not in service yet: {NAME}: deploying; `host_s` says how long"):
        await world.hosts.bring(FULL, within_s=0.01)


async def test_files_that_changed_never_reach_an_engine(world: World) -> None:
    file = world.registry.folder(FULL) / "config.json"
    file.chmod(0o644)
    file.write_text("{}")
    world.decide("stage", FULL)
    with pytest.raises(CannotLoad, match=r"assistant@1 is torn: config\.json"):
        await world.hosts.bring(FULL, within_s=5)
    assert not any(line.startswith("start") for line in world.story)


async def test_without_an_application_of_its_base_there_is_no_pattern_for_one(world: World) -> None:
    world.serve.applications = [OTHER]
    world.decide("stage", FULL)
    with pytest.raises(CannotLoad, match=f"no application serves seed, after whose pattern {FULL} would get its own"):
        await world.hosts.bring(FULL, within_s=5)


async def test_who_waits_for_what_was_let_go_meanwhile_is_told(world: World) -> None:
    world.decide("stage", FULL)
    world.decide("reject", FULL)
    with pytest.raises(ValueError, match=f"{FULL} is no longer needed: another decision came between"):
        await world.hosts.bring(FULL, within_s=5)
