"""Two machines, brought up by `ray up cluster.yaml`: they serve, train together, and lose each other in the middle.

The machines are namespaces of this one (`hosts.py`). Their state is on a shared path, their log's segments on disks of
their own, so a record of the second is in the table only if a task there has brought it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.settings import Settings
from demo import traffic
from tests.conftest import Cluster
from tests.e2e import hosts
from tests.e2e.hosts import Host
from tests.e2e.using import Load, example, log_entries, logged_records, recipe, runs
from tests.waiting import eventually

LACKING = hosts.lacking()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]

ROOT = Path(__file__).parent.parent.parent
OWN_LOG = f"/home/{hosts.USER}/log"
ROWS = 200


@dataclass(frozen=True)
class Machines(Cluster):
    """A cluster whose commands run on its head, and whose gateways are reached over the network."""

    hosts: list[Host] = field(default_factory=list)
    at: int = 0
    """Whose gateway `base_url` is."""

    @property
    def base_url(self) -> str:
        return f"http://{self.hosts[self.at].address}:{self.settings.http_port}/v1"

    def trivium(self, *arguments: str, check: bool = True, timeout_s: float = 600) -> Any:
        result = self.hosts[0].run(f"{ENTER} && trivium {' '.join(arguments)}", timeout_s)
        if check and result.returncode != 0:
            pytest.fail(f"trivium {' '.join(arguments)} exited {result.returncode}:\n{result.stdout}\n{result.stderr}")
        return result

    def through(self, at: int) -> Machines:
        return replace(self, at=at)

    def serve(self) -> dict[str, Any]:
        """What Serve's API on the head's loopback says."""
        script = 'curl -s -H "authorization: Bearer $(cat $RAY_AUTH_TOKEN_PATH)" $RAY_API_SERVER_ADDRESS'
        said = self.hosts[0].run(f'{ENTER} && eval "$(trivium env)" && {script}/api/serve/applications/').stdout
        return json.loads(said or "{}")

    def replicas(self) -> set[str]:
        """Addresses of the machines on which a replica of the engine runs."""
        deployments = self.serve().get("applications", {}).get("assistant", {}).get("deployments", {})
        found = (replica for deployment in deployments.values() for replica in deployment["replicas"])
        return {replica["node_ip"] for replica in found if replica["state"] == "RUNNING"}

    def alive(self) -> set[str]:
        """Addresses of the machines that Ray counts as its nodes."""
        return {node["ip"] for node in self.status()["nodes"] if node["state"] == "ALIVE"}


ENTER = "cd ~/trivium && . ~/trivium.env && . .venv/bin/activate"


def launcher_file(path: Path, state: Path, machines: list[Host]) -> Path:
    """The shipped cluster.yaml with what it tells its reader to put in."""
    head, *workers = machines
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["cluster_name"] = head.name
    config["provider"] |= {"head_ip": head.address, "worker_ips": [each.address for each in workers]}
    config["auth"]["ssh_private_key"] = str(head.key)
    config["file_mounts"] = {"~/trivium": str(ROOT)}
    told = {
        "TRIVIUM_NODE_IP=127.0.0.1": f"TRIVIUM_NODE_IP={head.address}/24",
        "TRIVIUM_STATE=$HOME/trivium/.trivium": f"TRIVIUM_STATE={state} TRIVIUM_LOG={OWN_LOG}",
    }
    for old, new in told.items():
        assert old in config["setup_commands"][-1]
        config["setup_commands"][-1] = config["setup_commands"][-1].replace(old, new)
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two machines with a replica on each."""
    folder = tmp_path_factory.mktemp("machines")
    state = folder / "state"
    state.mkdir()
    # The programs too, which may be under /home or /tmp here.
    shared = [state, Path(sys.prefix), Path(sys.base_prefix), ROOT]
    with hosts.hosts(folder, shared, 2) as made:
        for host in made:
            # `make .venv/ready` finds it; everything else comes by the launcher's rsync.
            (host.home / "trivium").mkdir()
            (host.home / "trivium" / ".venv").symlink_to(Path(sys.prefix))
        own = Machines(Settings(state=state), {}, made)
        file = launcher_file(folder / "cluster.yaml", state, made)
        ray_up = [Path(sys.executable).parent / "ray", "up", "--yes", "--no-config-cache", file]
        # Of this user, whose other clusters the launcher must not know.
        said = subprocess.run(ray_up, capture_output=True, text=True, env={**os.environ, "RAY_TMPDIR": str(folder)})
        assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-4000:]
        both = {host.address for host in made}
        eventually(lambda: own.alive() == both, 120, "both machines")
        own.trivium("up", "--replicas", "2")
        eventually(lambda: own.replicas() == both, 60, "a replica on each machine")
        yield own


def test_each_machine_takes_requests_and_each_answers_them(machines: Machines, tmp_path: Path) -> None:
    with Load(machines, users=2) as one, Load(machines.through(1), users=2) as other:
        eventually(lambda: min(len(one.complete), len(other.complete)) >= 8, 60, "answers through both")
    assert not one.failures + other.failures
    asked = {heard.request_id for heard in one.complete + other.complete}
    for host in machines.hosts:
        assert list((host.home / "log" / "segments").glob("*/0*")), f"{host.name} wrote no segment of its own"
    eventually(lambda: asked <= set(logged_records(machines, machines.state / "seen.jsonl")), 90, "all in the table")
    with httpx.Client(trust_env=False) as anybody:
        for at in (0, 1):
            answer = anybody.get(f"{machines.through(at).base_url}/models", timeout=10)
            assert answer.status_code == 401


def test_a_machine_that_is_cut_off_in_a_training_and_comes_back_loses_nothing(machines: Machines) -> None:
    head, worker = machines.hosts
    made = machines.state / "traffic"
    machines.trivium("seed", "traffic", "--out", str(made), "--train", str(ROWS), "--validate", "1")
    given = traffic.read(made)
    lines = [
        example(wish.text, {"name": wish.tool, "arguments": wish.arguments}, given.tools, f"session-{at // 4}")
        for at, wish in enumerate(given.train)
    ]
    (machines.state / "rows.jsonl").write_text("\n".join(lines))
    machines.trivium("log", "import", str(machines.state / "rows.jsonl"))
    file = recipe(
        machines.state / "recipe.yaml",
        training={
            "workers": 2,
            "max_seconds": 40,
            "checkpoint_every_s": 5,
            "min_steps": 1000,
            "sharing": {"pause": "never"},  # beside a load that never pauses it would take four times as long
        },
        curation={"holdout": {"max_rows": 24}},
        evaluation={"concurrency": 4},
    )
    cycle = Command(machines, "cycle", "--recipe", str(file))
    with Load(machines, users=2) as load:
        cycle.start()
        eventually(lambda: all(host.processes("RayTrainWorker") for host in (head, worker)), 120, "a worker on each")
        # Of all ranks and known to the driver: a checkpoint that another one follows.
        eventually(lambda: len(checkpoints(machines)) > 1, 120, "checkpoints")
        worker.cut()
        cut = time.monotonic()
        eventually(lambda: len([h for h in load.after(cut) if h.text]) >= 8, 60, "answers of the other machine")
        cycle.join(timeout=400)
        assert not cycle.is_alive()
        ended = time.monotonic()
        worker.join()
        eventually(lambda: machines.alive() == {head.address, worker.address}, 180, "the machine back")
    waited_s = max(heard.ended - cut for heard in load.heard if heard.begun <= cut)
    print(
        f"who waited then knew after {waited_s:.1f} s; new requests failed for {load.errors_s(cut):.1f} s; "
        f"the cycle took {ended - cut:.0f} s more"
    )
    assert max(waited_s, load.errors_s(cut)) < 30
    assert not [heard for heard in load.after(ended) if heard.error]
    assert cycle.result is not None and cycle.result.returncode == 0, cycle.result
    assert "going on after step" in cycle.result.stdout
    run = runs(machines)[-1]
    assert (run["state"], run["attempts"]) == ("done", 1)
    assert run["verdict"] is not None

    acknowledged = {heard.request_id for heard in load.complete}
    out = machines.state / "seen.jsonl"
    eventually(lambda: acknowledged <= set(logged_records(machines, out)), 90, "all that was answered, in the log")
    ids = [entry["request_id"] for entry in log_entries(machines, out) if entry["kind"] == "record"]
    assert len(ids) == len(set(ids))


def checkpoints(machines: Machines) -> list[Path]:
    return list(machines.state.glob("runs/*/train-*/checkpoint_*/spent.json"))


class Command(threading.Thread):
    """`trivium ARGUMENTS` on the head, while the test does something else."""

    def __init__(self, machines: Machines, *arguments: str) -> None:
        super().__init__(daemon=True)
        self._machines, self._arguments = machines, arguments
        self.result: subprocess.CompletedProcess[str] | None = None

    def run(self) -> None:
        self.result = self._machines.trivium(*self._arguments, check=False)
