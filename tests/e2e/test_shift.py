"""An agent learns from what came of its work: `trivium demo --agents`, on a cluster of its own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cluster
from tests.e2e.using import each, log_entries

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

JOBS = 400


@dataclass(frozen=True)
class Worked:
    report: dict[str, Any]
    out: Path
    said: str
    cluster: Cluster


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worked]:
    own = Cluster.on_free_ports(tmp_path_factory.mktemp("shift") / "state")
    own.state.mkdir()
    out = own.state / "demo"
    try:
        sizes = ("--requests", str(JOBS), "--validate", "60", "--cycles", "1")
        said = own.trivium("demo", "--agents", *sizes, "--out", str(out), timeout_s=900).stdout
        yield Worked(json.loads((out / "report.json").read_text()), out, said, own)
    finally:
        own.trivium("down", check=False)


def test_one_turn_later_the_agent_fails_less(worked: Worked) -> None:
    report = worked.report
    assert report["champion"] == {"before": "clerk@0", "after": "clerk@1"}, worked.said
    assert report["verdict"]["accepted"] and report["canaries"][0]["promoted"]
    assert report["after"]["success"] >= report["before"]["success"] + 0.2
    assert report["failed"] == 0 and report["jobs"] >= JOBS


def test_only_what_was_live_is_judged_and_learnt_from(worked: Worked, tmp_path: Path) -> None:
    steps = list(each(log_entries(worked.cluster, tmp_path / "log.jsonl"), "step"))
    templates = {step["run"]: step["body"]["metadata"]["task_template"] for step in steps if step["event"] == "start"}
    judged = {step["run"] for step in steps if step["event"] == "reward"}
    assert {templates[run] for run in judged}.isdisjoint(worked.report["by_template"])
    told = json.loads(worked.cluster.trivium("lineage", "clerk@1", "--json").stdout)
    assert 0 < told["lineage"]["rows"] <= sum(run["success"] for run in worked.report["live"])


def test_rewards_are_what_the_books_say(worked: Worked, tmp_path: Path) -> None:
    with sqlite3.connect(worked.out / "shop.db") as books:
        tables = ("orders", "quotes", "rejections")
        done = {name for table in tables for (name,) in books.execute(f"SELECT customer FROM {table}")}
    steps = list(each(log_entries(worked.cluster, tmp_path / "log.jsonl"), "step"))
    tasks = {step["run"]: step["body"]["task"] for step in steps if step["event"] == "start"}
    good = [step["run"] for step in steps if step["event"] == "reward" and step["body"]["score"] == 1.0]
    assert len(good) > 20
    assert all(any(customer in tasks[run] for customer in done) for run in good)


def test_the_page_shows_it(worked: Worked) -> None:
    assert "The agent learned from its work." in (worked.out / "report.html").read_text()
    assert "trivium lineage clerk@1" in worked.said
