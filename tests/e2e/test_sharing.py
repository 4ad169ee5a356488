"""Serving and training on one machine: what trainers get to know of the load."""

from __future__ import annotations

import pytest

from cluster import pressure
from cluster.pressure import Node
from tests.conftest import Cluster
from tests.e2e.using import client
from tests.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_trainers_on_this_machine_see_each_answer_while_it_is_under_way(cluster: Cluster) -> None:
    node = Node(pressure.path(cluster.settings))
    eventually(node.load, 60, "nobody asks anything", lambda load: load.in_flight == 0)
    with client(cluster) as app:
        messages = [{"role": "user", "content": "A table for five in Lyon"}]
        stream = app.chat.completions.create(
            model="assistant", messages=messages, stream=True, max_tokens=200, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        seen = node.load()
        assert (seen.in_flight, seen.waiting) == (1, 0) and seen.ttft_s and seen.ttft_s < 120
        for _ in stream:
            pass
    after = eventually(node.load, 10, "it is over", lambda load: load.in_flight == 0)
    assert 0 < after.quiet_s < 60
