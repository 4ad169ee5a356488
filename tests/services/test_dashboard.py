"""The Grafana dashboard's file, without a Prometheus: tests/e2e/test_telemetry.py puts its queries to one."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import pytest

from cluster.telemetry import METRICS


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return json.loads((files("services") / "dashboards" / "trivium.json").read_text())


def test_panels_do_not_overlap_and_ask_the_chosen_prometheus(dashboard: dict[str, Any]) -> None:
    assert [each["type"] for each in dashboard["templating"]["list"]] == ["datasource"]
    taken = set()
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["description"]
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells


def test_every_metric_of_ours_that_it_asks_for_exists(dashboard: dict[str, Any]) -> None:
    known = {f"ray_{metric.name}{'_bucket' * (metric.kind == 'time')}" for metric in METRICS}
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"ray_trivium_\w+", query)}
    assert asked and asked <= known
