"""What another machine sees of a cluster: looks from another network namespace at every port that is listened on.

Wants root and iproute2 (`ip`), the test of the printed rules also nftables (`nft`); skips without them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

from cluster import head, ports
from cluster.head import Head
from tests.conftest import Cluster
from tests.waiting import eventually

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None,
        reason="run as root, with iproute2 installed, to look at the cluster from another network namespace",
    ),
]

GLANCE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def state(port):
    try:
        socket.create_connection((sys.argv[1], port), timeout=1).close()
        return "open"
    except TimeoutError:
        return "dropped"
    except OSError:
        return "refused"
ports = json.loads(sys.argv[2])
with ThreadPoolExecutor(32) as together:
    print(json.dumps(dict(zip(ports, together.map(state, ports)))))
"""

CALL = """
import pickle, sys, grpc
# What a replica would unpickle, and so execute, if it came to that.
class Touch:
    def __reduce__(self):
        return (open, (sys.argv[2], "w"))
channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
body = pickle.dumps(Touch())
field = b"\\x0a" + bytes([len(body)]) + body
try:
    call(field, timeout=10)
    print("answered")
except grpc.RpcError as error:
    print(error.code().name)
"""


@dataclass(frozen=True)
class Outside:
    """Another machine on the same network."""

    namespace: str
    address: str
    """Of the cluster's machine, as this one sees it."""

    def run(self, program: str, *arguments: str) -> str:
        command = ["ip", "netns", "exec", self.namespace, sys.executable, "-c", program, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def look(self, numbers: set[int]) -> dict[int, str]:
        found = json.loads(self.run(GLANCE, self.address, json.dumps(sorted(numbers))))
        return {int(port): state for port, state in found.items()}


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    # One of 254 networks by process id: test runs beside each other are rare and would differ.
    name, network = f"trivium{os.getpid()}", f"10.213.{os.getpid() % 254}"
    here, there = f"tri{os.getpid()}a", f"tri{os.getpid()}b"
    try:
        for command in (
            f"ip netns add {name}",
            f"ip link add {here} type veth peer name {there} netns {name}",
            f"ip addr add {network}.1/24 dev {here}",
            f"ip link set {here} up",
            f"ip netns exec {name} ip addr add {network}.2/24 dev {there}",
            f"ip netns exec {name} ip link set {there} up",
            f"ip netns exec {name} ip link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        yield Outside(name, f"{network}.1")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", here], check=False, stderr=subprocess.DEVNULL)


def listening(cluster: Cluster) -> dict[int, str]:
    """Every TCP port that a process of the cluster listens on, and the process's name."""
    ours = Head.read(cluster.settings)
    assert ours
    owners = {process.pid: process.name() for process in head.processes(ours) if process.is_running()}
    return {
        each.laddr.port: owners[each.pid]
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.pid in owners
    }


def test_gateway_is_closed_until_it_is_told_to_listen(cluster: Cluster, outside: Outside) -> None:
    port = cluster.settings.http_port
    assert port in listening(cluster)
    assert outside.look({port}) == {port: "refused"}


def test_ray_and_the_dashboard_are_closed(cluster: Cluster, outside: Outside) -> None:
    fixed = ports.fixed(cluster.settings)
    closed = {port for what, port in fixed.items() if not what.startswith("haproxy-")}
    assert {fixed["gcs"], fixed["dashboard"]} <= listening(cluster).keys()
    assert set(outside.look(closed).values()) == {"refused"}


@pytest.mark.skipif(shutil.which("nft") is None, reason="install nftables to load the printed rules")
def test_printed_rules_close_every_port(cluster: Cluster, outside: Outside) -> None:
    found = listening(cluster)
    before = outside.look(set(found))
    assert "open" in before.values(), "HAProxy's statistics are open to the network, unless this looked at nothing"
    rules = cluster.trivium("firewall").stdout
    try:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        after = outside.look(set(found))
        assert {found[port]: port for port, state in after.items() if state == "open"} == {}
        assert any(state == "dropped" for state in after.values())
    finally:
        table = f"trivium_{cluster.settings.http_port}"
        subprocess.run(["nft", "delete", "table", "inet", table], check=False)
    # Workers and replicas come and go meanwhile: what listened all the time is compared.
    eventually(
        lambda: outside.look(found.keys() & listening(cluster).keys()),
        10,
        f"without the rules each port is as it was, {before}",
        lambda now: bool(now) and now.items() <= before.items(),
    )


def test_replica_called_past_haproxy_wants_the_token(cluster: Cluster, outside: Outside) -> None:
    # Serve's replicas listen on all addresses for each other, and unpickle what they are sent.
    seen = outside.look(set(listening(cluster)))
    replicas = [port for port, name in listening(cluster).items() if seen[port] == "open" and "ServeReplica" in name]
    assert replicas
    proof = cluster.state.parent / "executed"
    answers = {outside.run(CALL, f"{outside.address}:{port}", str(proof)) for port in replicas}
    assert answers <= {"UNAUTHENTICATED", "UNAVAILABLE"}
    assert not proof.exists()


def test_only_haproxy_and_serves_replicas_listen_beyond_loopback(cluster: Cluster, outside: Outside) -> None:
    found = listening(cluster)
    seen = outside.look(set(found))
    assert {found[port].split(":")[0] for port, state in seen.items() if state == "open"} <= {"haproxy", "ray"}
