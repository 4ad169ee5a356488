"""The wheel deployed on a cluster of its own, without an engine: what it starts, survives, and does again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.client import Client
from pipelines.steps import runs
from tests.conftest import Cluster
from tests.pipelines.logs import corrected, write

pytestmark = pytest.mark.ray

PATIENCE_S = 300


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("wheel")
    cluster = Cluster.on_free_ports(folder / "state")
    cluster.state.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text("curation: {min_rows: 150, replay: {share: 0}}")
    args = {"recipe": str(recipe), "min_feedback": 50, "settle_s": 0, "look_every_s": 0.5, "retry_s": 1}
    wheel = {"name": "wheel", "import_path": "pipelines.wheel:app", "route_prefix": "/admin/wheel", "args": args}
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump({"proxy_location": "EveryNode", "applications": [wheel]}))
    try:
        cluster.trivium("up", "--config", str(config))
        yield cluster
    finally:
        cluster.trivium("down", check=False)


def look(cluster: Cluster) -> dict[str, Any] | None:
    """What the wheel says of itself; None while it is away."""
    try:
        with Client(cluster.settings, key=cluster.api_key) as client:
            return client.get("/admin/wheel")
    except ValueError:
        return None


def until(cluster: Cluster, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while not ((seen := look(cluster)) and wanted(seen)):
        assert time.monotonic() < deadline, f"the wheel still says {seen}"
        time.sleep(0.2)
    return seen


def test_switched_off_it_counts_but_starts_nothing(turning: Cluster) -> None:
    write(turning.state, corrected(60))
    seen = until(turning, lambda seen: seen["fresh"] == 60)
    assert (seen["on"], seen["reason"], seen["run"], seen["job"]) == (False, "switched off", None, None)


def test_switched_on_it_starts_one_cycle_and_adopts_it_after_its_own_death(turning: Cluster) -> None:
    assert "wheel on" in turning.trivium("wheel", "on").stdout
    started = until(turning, lambda seen: seen["job"] is not None)
    os.kill(started["process"], signal.SIGKILL)

    back = until(turning, lambda seen: seen["process"] != started["process"])
    assert back["on"]
    ended = until(turning, lambda seen: seen["run"] is not None and seen["run"]["state"] == "done")
    assert ended["run"]["job"] == started["job"]
    assert ended["run"]["outcome"].startswith("only ")  # the recipe asks for more rows than there are
    until(turning, lambda seen: seen["job"] is None and seen["reason"] == "0 of 50 answers with fresh feedback")
    assert len(runs(turning.state)) == 1
    assert "only " in turning.trivium("wheel", "status").stdout


def test_a_failed_cycle_is_tried_again_after_a_pause_and_goes_on(turning: Cluster) -> None:
    # Training asks the deployment which version it starts from, and there is none here.
    write(turning.state, corrected(300, first=1000))
    until(turning, lambda seen: seen["run"]["state"] == "failed")
    until(turning, lambda seen: seen["run"]["attempts"] >= 2 and seen["run"]["state"] == "failed")
    turning.trivium("wheel", "off")
    second = runs(turning.state)[1]
    assert second.steps["collect"].reused and second.steps["curate"].reused
    assert second.error is not None


def test_a_cycle_by_hand_is_a_job_too_and_says_how_it_ended(turning: Cluster, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("curation: {min_rows: 9999}")
    said = turning.trivium("cycle", "--recipe", str(recipe))
    assert "nothing to decide: only " in said.stdout.splitlines()[-1]
    assert runs(turning.state)[-1].job is not None
    failed = turning.trivium("cycle", "--recipe", str(tmp_path / "none.yaml"), check=False)
    assert failed.returncode == 1 and "cannot be read" in failed.stderr
