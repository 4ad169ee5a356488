"""The shipped agent on the shipped model: what the engine says of its tokens is in the journal."""

from __future__ import annotations

import json

import pytest

from cluster.log import Log
from cluster.records import Record
from tests.conftest import Cluster

pytestmark = pytest.mark.ray


def test_the_shipped_agent_thinks_with_the_deployment_and_keeps_its_tokens(cluster: Cluster) -> None:
    said = cluster.trivium("agents", "run", "assistant", "hello", "--follow", "--json", "--thread", "first").stdout
    *steps, ended = [json.loads(line) for line in said.splitlines()]
    assert ended["state"] == "completed"
    thoughts = {step["body"]["request_id"]: step["body"] for step in steps if step["event"] == "model"}
    assert len(thoughts) == ended["turns"]
    for thought in thoughts.values():
        assert len(thought["token_ids"]) == thought["completion_tokens"]
        assert len(thought["logprobs"]) == thought["completion_tokens"] and max(thought["logprobs"]) <= 0
    log = Log.here(cluster.settings)
    found = [each for each in [*log.read(), *log.entries()] if isinstance(each, Record) and each.request_id in thoughts]
    assert len(found) == len(thoughts)
    for record in found:
        version = thoughts[record.request_id]["version"]
        assert (record.session, record.principal, record.version) == ("first", "owner", version)
