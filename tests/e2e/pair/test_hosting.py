"""Versions with weights of their own, each in an application beside the two replicas of its base, under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import models
from cluster.client import Client
from cluster.decisions import fold, read
from cluster.registry import Registry
from tests.cluster.test_registry import write_adapter
from tests.conftest import Cluster
from tests.e2e.pair.conftest import up
from tests.e2e.pair.talker import asking
from tests.e2e.using import Load, answers, client, one_answer
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

NAME, BASE, ADAPTER, FULL = "clerk", "clerk@0", "clerk@1", "clerk@2"
APPLICATION = "clerk-v2"


@pytest.fixture(scope="module")
def clerk(pair: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """An alias of its own, with an adapter and a version of full weights."""
    registry, seed = Registry(pair.settings), models.seed_folder()
    registry.create(NAME, "seed", "adapter", 8, BASE, None, write_adapter(tmp_path_factory.mktemp("a") / "adapter"))
    registry.create(NAME, "seed", "full", None, BASE, None, seed)
    with Client(pair.settings, pair.api_key) as admin:
        admin.create(NAME, "seed")
        admin.promote(NAME, ADAPTER, "first")
    return pair


@pytest.fixture
def admin(clerk: Cluster) -> Iterator[Client]:
    with Client(clerk.settings, clerk.api_key) as admin:
        yield admin


def applications(cluster: Cluster) -> set[str]:
    return set(cluster.status()["applications"])


def versions(load: Load, since: float) -> set[str | None]:
    """Who answered what was asked from a moment on."""
    eventually(lambda: len(load.after(since)) >= 60, 60, "traffic afterwards")
    return {heard.version for heard in load.after(since)}


def test_it_goes_from_candidate_to_champion_and_back_as_an_adapter_does_and_no_request_fails(
    clerk: Cluster, admin: Client
) -> None:
    with Load(clerk, model=NAME, users=6, text=asking(3, 0.01)) as load:
        eventually(lambda: len(load.complete) >= 20, 60, "traffic")
        admin.stage(NAME, FULL, "to be evaluated")
        assert answers(clerk, f"{NAME}@candidate") == FULL, "an evaluation can ask it as soon as it is staged"
        assert versions(load, time.monotonic()) == {ADAPTER}
        admin.canary(NAME, FULL, "a test", share=0.5)
        assert versions(load, time.monotonic()) == {ADAPTER, FULL}
        admin.promote(NAME, FULL, "a test")
        assert versions(load, time.monotonic()) == {FULL}, "the call returns when every gateway follows"
        with client(clerk) as api:
            assert {NAME, FULL} <= {model.id for model in api.models.list()}
            assert api.models.retrieve(NAME).model_extra == {"root": FULL, "parent": "seed"}
        begun = time.monotonic()
        admin.rollback(NAME, "a test")
        assert time.monotonic() - begun < 3
        assert versions(load, time.monotonic()) == {ADAPTER}
        eventually(lambda: APPLICATION not in applications(clerk), 90, "nothing needs it, so it goes")
        assert versions(load, time.monotonic()) == {ADAPTER}
    assert not load.failures
    assert answers(clerk, FULL) is None, "it has no engine any more"
    with client(clerk) as api:
        gone = one_answer(api, FULL, "hi", False, begun=0)
    assert (gone.status, gone.worded) == (503, True)


def test_its_streams_end_before_its_application_does(clerk: Cluster, admin: Client, tmp_path: Path) -> None:
    admin.promote(NAME, FULL, "again")
    end, begun, ended = tmp_path / "end", list[str | None](), list[str | None]()

    def listen() -> None:
        messages: Any = [{"role": "user", "content": asking(3, 0.1, until=end)}]
        with (
            client(clerk) as api,
            api.chat.completions.with_streaming_response.create(model=NAME, messages=messages, stream=True) as raw,
        ):
            begun.append(raw.headers.get("x-trivium-version"))
            ended.append([chunk.choices[0].finish_reason for chunk in raw.parse()][-1])

    threads = [threading.Thread(target=listen, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()

    def status() -> str:
        return clerk.status()["applications"].get(APPLICATION, {"status": "gone"})["status"]

    eventually(lambda: begun == [FULL] * 4, 60, "four streams")
    admin.rollback(NAME, "a test")
    assert eventually(status, 60, "it ends", lambda seen: seen != "RUNNING") == "DELETING"
    assert answers(clerk, NAME) == ADAPTER and not ended
    end.touch()
    for thread in threads:
        thread.join(timeout=60)
    assert ended == ["stop"] * 4
    eventually(status, 90, "nothing holds it any more", lambda seen: seen == "gone")


def test_down_and_up_serve_the_same_champion_and_another_up_leaves_it_alone(clerk: Cluster, admin: Client) -> None:
    admin.promote(NAME, FULL, "again")
    before = {process.pid for process in clerk.processes(f"ServeReplica:{APPLICATION}:")}
    up(clerk)
    assert {process.pid for process in clerk.processes(f"ServeReplica:{APPLICATION}:")} == before
    clerk.trivium("down")
    up(clerk)
    assert answers(clerk, NAME) == FULL
    with Client(clerk.settings, clerk.api_key) as again:
        again.rollback(NAME, "a test")
    eventually(lambda: APPLICATION not in applications(clerk), 90, "nothing needs it, so it goes")


@pytest.mark.parametrize(
    ("forget", "complaint"),
    [
        (False, "is torn"),
        (True, r"application clerk-v\d does not run: .*is not a whole safetensors"),
    ],
)
def test_one_that_cannot_be_served_is_let_go_and_nothing_changes(
    clerk: Cluster, admin: Client, forget: bool, complaint: str
) -> None:
    registry = Registry(clerk.settings)
    version = registry.create(NAME, "seed", "full", None, BASE, None, models.seed_folder())
    for file in registry.folder(version).iterdir():
        file.chmod(0o644)
    (registry.folder(version) / "model.safetensors").write_bytes(b"torn")
    if forget:
        _forget(registry.folder(version))
    with pytest.raises(ValueError, match=f"(?s){complaint}"):
        admin.promote(NAME, version.id, "a test")
    alias = fold(read(clerk.state)).aliases[NAME]
    assert (alias.champion, alias.staged, answers(clerk, NAME)) == (ADAPTER, None, ADAPTER)
    eventually(lambda: f"{NAME}-v{version.number}" not in applications(clerk), 90, "nothing is left of it")


def _forget(folder: Path) -> None:
    """As a version of an earlier release, without digests."""
    file = folder / "version.json"
    file.write_text(file.read_text().replace('"files"', '"forgotten"'))
