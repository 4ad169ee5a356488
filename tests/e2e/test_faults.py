"""`kill -9`, and everything ended and started again. Last in line: each start of an engine takes about 50 s."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.e2e.using import Load, answers, each, log_entries, wait_for_answers
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

BACK_S = 300
"""A replica's start takes 50 s on two free cores; here others may be at work too."""


@pytest.mark.parametrize("victim", ["ServeReplica:assistant:", "EngineCore"], ids=["replica", "engine"])
def test_killed_in_mid_traffic_service_comes_back_and_no_full_answer_is_lost(
    victim: str, cluster: Cluster, tmp_path: Path
) -> None:
    version = wait_for_answers(cluster, BACK_S)
    with Load(cluster) as load:
        eventually(lambda: len(load.complete) >= 20, 60, "traffic")
        found = cluster.processes(victim)
        assert len(found) == 1, found
        found[0].kill()
        dead = load.heard[-1].ended
        eventually(lambda: not found[0].is_running(), 30, f"{victim} is dead")

        def back() -> bool:
            return sum(heard.begun > dead + 1 for heard in load.complete) >= 20

        eventually(back, BACK_S, "answers again")
    assert answers(cluster) == version
    logged = {record["request_id"]: record for record in each(log_entries(cluster, tmp_path / "log.jsonl"), "record")}
    lost = [heard for heard in load.complete if heard.request_id not in logged]
    assert not lost, f"{len(lost)} of {len(load.complete)} full answers are not in the log"
    for heard in load.complete:
        assert heard.request_id and (logged[heard.request_id]["answer"]["content"] or "") == heard.text


def test_down_and_up_serves_the_same_champion(cluster: Cluster) -> None:
    before, counted = cluster.status(), wait_for_answers(cluster, BACK_S)
    cluster.trivium("down")
    assert cluster.status()["up"] is False
    cluster.trivium("up")
    assert wait_for_answers(cluster, 60) == counted
    after = cluster.status()
    assert after["aliases"] == before["aliases"]
    assert after["log"]["records"] >= before["log"]["records"]
