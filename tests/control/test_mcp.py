"""/mcp on a running cluster: two replicas behind HAProxy, for clients of both eras."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.conftest import Cluster

pytestmark = pytest.mark.ray


def address(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.settings.http_port}/mcp"


@asynccontextmanager
async def connected(cluster: Cluster, mode: str) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {cluster.api_key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(address(cluster), http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_replicas_behind_haproxy_answer_clients_of_both_eras(control: Cluster, mode: str, version: str) -> None:
    async with connected(control, mode) as client:
        assert client.protocol_version == version
        assert {"cluster_status", "rollout_status"} <= {tool.name for tool in (await client.list_tools()).tools}
        for _ in range(4):
            rollout = (await client.call_tool("rollout_status", {})).structured_content
            assert rollout is not None and "aliases" in rollout
        status = (await client.call_tool("cluster_status", {})).structured_content
    assert status is not None
    assert status["applications"]["mcp"]["replicas"]["mcp"] == {"RUNNING": 2}
    assert all(node["alive"] for node in status["nodes"])


def test_request_without_a_key_is_told_how_and_carries_an_id(control: Cluster) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    refused = httpx.post(address(control), json=request, headers={"accept": "application/json, text/event-stream"})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer ")
    assert refused.headers["x-request-id"].startswith("req-")
