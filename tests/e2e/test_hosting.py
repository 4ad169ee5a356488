"""A version with weights of its own goes into service under load, on a real engine beside that of its base."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from cluster import models
from cluster.client import Client
from cluster.registry import Registry
from tests.conftest import Cluster
from tests.e2e.using import Load, client, logged_records, one_answer, tool
from tests.services.tiny import make_adapter
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ADAPTER, FULL = "author@1", "author@2"


def changed(folder: Path) -> Path:
    """The seed model, turned to say what it would say last."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(models.seed_folder(), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= -1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def versions(load: Load, since: float) -> set[str | None]:
    """Who answered what was asked from a moment on."""
    eventually(lambda: len(load.after(since)) >= 30, 120, "traffic afterwards")
    return {heard.version for heard in load.after(since)}


def test_full_weights_take_over_from_an_adapter_and_give_back_and_no_request_fails(
    cluster: Cluster, tmp_path: Path
) -> None:
    registry = Registry(cluster.settings)
    adapter = make_adapter(models.seed_folder(), tmp_path / "adapter", rank=8, seed=1)
    registry.create("author", "seed", "adapter", 8, "author@0", None, adapter)
    registry.create("author", "seed", "full", None, "author@0", None, changed(tmp_path / "full"))
    with Client(cluster.settings, cluster.api_key) as admin, client(cluster) as api:
        admin.create("author", "seed")
        admin.promote("author", ADAPTER, "first")
        with Load(cluster, model="author", users=3) as load:
            eventually(lambda: len(load.complete) >= 10, 60, "traffic")
            admin.canary("author", FULL, "a test", share=0.5)
            assert versions(load, time.monotonic()) == {ADAPTER, FULL}
            admin.promote("author", FULL, "a test")
            assert versions(load, time.monotonic()) == {FULL}
            asked = {name: one_answer(api, name, "hello", False, begun=0) for name in ("author", FULL, ADAPTER, "seed")}
            called = api.chat.completions.create(
                model="author",
                messages=[{"role": "user", "content": "What is the weather in Rome?"}],
                tools=[tool("weather", "city")],
                tool_choice="required",
                max_tokens=64,
            )
            begun = time.monotonic()
            admin.rollback("author", "a test")
            assert time.monotonic() - begun < 3
            assert versions(load, time.monotonic()) == {ADAPTER}
            eventually(lambda: "author-v2" not in cluster.status()["applications"], 120, "nothing needs it, so it goes")
    assert not load.failures
    texts = {name: heard.text for name, heard in asked.items()}
    assert texts["author"] == texts[FULL] and len(set(texts.values())) == 3, "each with its own weights"
    assert {call.function.name for call in called.choices[0].message.tool_calls or []} <= {"weather"}
    assert not cluster.processes("ServeReplica:author-v2:")
    logged = logged_records(cluster, tmp_path / "log.jsonl")
    assert all(logged[heard.request_id or ""]["version"] == heard.version for heard in load.complete)
