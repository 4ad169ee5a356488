"""`trivium up | down | status | env` with real Ray and Serve, and an application that starts in a second."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from cluster import head, ports
from cluster.environment import client_environment
from tests.conftest import Cluster
from tests.waiting import eventually

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent.parent
RAY = Path(sys.executable).parent / "ray"


def config(folder: Path, **arguments: Any) -> str:
    """Path of a Serve config file with the echo application at the root."""
    application = {
        "name": "echo",
        "route_prefix": "/",
        "import_path": "tests.cluster.echo_app:build",
        "args": arguments,
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
    }
    path = folder / f"serve-{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "applications": [application]}))
    return str(path)


def echo(cluster: Cluster) -> dict[str, Any]:
    return httpx.get(f"http://127.0.0.1:{cluster.settings.http_port}/", trust_env=False).json()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose gateway was opened to the network."""
    own = Cluster.on_free_ports(tmp_path_factory.mktemp("home") / "state")
    own.state.mkdir()
    try:
        own.trivium("up", "--listen", "0.0.0.0", "--config", config(own.state, greeting="hello"))
        yield own
    finally:
        own.trivium("down", check=False)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray head that somebody started by hand, after `eval "$(trivium env)"`, with an application of their own."""
    own = Cluster.on_free_ports(tmp_path_factory.mktemp("theirs") / "state")
    own.state.mkdir()
    folder = own.state.parent
    lines = own.trivium("env").stdout
    # Short, because Ray puts sockets there; the head's own place, not that of `trivium up`.
    place = Path("/tmp") / f"trivium-test-{os.getpid()}"
    gcs, dashboard = own.settings.gcs_port, own.settings.dashboard_port
    start = (
        f"{RAY} start --head --temp-dir={place} --num-cpus=4 --port={gcs} --dashboard-port={dashboard} "
        f"--ray-client-server-port={gcs + 7} --dashboard-agent-listen-port={gcs + 5}"
    )
    script = f"set -e\n{lines}\nexport TRIVIUM_TEST_MARK={place.name}\n{start}\n"
    try:
        for _ in range(3):  # as `trivium up` does: Ray gives up when its processes need more than 30 s to start
            result = subprocess.run(["sh", "-c", script], env=own.variables, capture_output=True, text=True, cwd=folder)
            if result.returncode == 0:
                break
            end_theirs(place)
        assert result.returncode == 0, result.stdout + result.stderr
        yield own
    finally:
        end_theirs(place)


def end_theirs(place: Path) -> None:
    for process in head.marked("TRIVIUM_TEST_MARK", place.name):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(place, ignore_errors=True)


def test_up_serves_what_the_config_says(home: Cluster) -> None:
    assert echo(home) | {"pid": 0} == {"arguments": {"greeting": "hello"}, "pid": 0, "state": str(home.state)}


def test_second_up_changes_nothing_and_takes_seconds(home: Cluster) -> None:
    before, begin = echo(home)["pid"], time.monotonic()
    said = home.trivium("up").stdout
    assert time.monotonic() - begin < 10
    assert "starting" not in said
    assert echo(home)["pid"] == before


def test_api_key_is_a_file_that_up_names_and_does_not_show(home: Cluster) -> None:
    said = home.trivium("up").stdout
    assert str(home.state / "secrets" / "api_key") in said
    assert home.api_key not in said


def test_status_says_what_runs_and_where(home: Cluster) -> None:
    found = home.status()
    assert found["up"]
    assert found["applications"] == {"echo": {"status": "RUNNING", "message": ""}}
    assert [node["state"] for node in found["nodes"]] == ["ALIVE"]
    assert found["addresses"]["api"] == home.base_url
    assert (found["replicas"], found["wheel"]) == (None, None)  # and what `echo` answers at `/` is not taken for theirs
    assert home.api_key not in home.trivium("status").stdout


def test_ray_and_serve_commands_work_after_eval_env(home: Cluster) -> None:
    script = f'eval "$({shlex.quote(str(RAY.parent / "trivium"))} env)"; {RAY} job list && {RAY.parent}/serve status'
    result = subprocess.run(["sh", "-c", script], env=home.variables, capture_output=True, text=True, cwd=home.state)
    assert result.returncode == 0, result.stderr
    assert "status: RUNNING" in result.stdout


def test_job_runs_in_the_cluster_that_it_was_submitted_to(home: Cluster, theirs: Cluster) -> None:
    program = "import os, ray; ray.init(); print('state', os.environ['TRIVIUM_STATE'], ray.cluster_resources()['CPU'])"

    def submit(cluster: Cluster) -> str:
        result = subprocess.run(
            [RAY, "job", "submit", "--", sys.executable, "-c", program],
            env=cluster.variables | client_environment(cluster.settings),
            capture_output=True,
            text=True,
            cwd=cluster.state,
        )
        return result.stdout + result.stderr

    with ThreadPoolExecutor() as together:
        said = together.map(submit, (home, theirs))
    for cluster, cpus, heard in zip((home, theirs), (max(8, os.cpu_count() or 1), 4), said, strict=True):
        assert f"state {cluster.state} {cpus}.0" in heard


def test_gateway_that_is_open_cannot_be_moved_while_it_serves(home: Cluster) -> None:
    result = home.trivium("up", "--listen", "127.0.0.1", check=False)
    assert result.returncode != 0
    assert f"listens on 0.0.0.0:{home.settings.http_port} and Serve cannot move it" in result.stderr
    assert "`trivium down`, then" in result.stderr


def test_application_that_dies_or_finds_no_room_says_so_and_the_next_up_mends_it(home: Cluster, tmp_path: Path) -> None:
    dead = home.trivium("up", "--config", config(tmp_path, fail="the weights are not there"), check=False)
    assert dead.returncode != 0
    assert "application echo does not run" in dead.stderr
    assert "the weights are not there" in dead.stderr
    large = home.trivium("up", "--config", config(tmp_path, cpus=1000), check=False)
    assert large.returncode != 0
    assert "there is no room on the cluster" in large.stderr
    home.trivium("up")  # without the options that failed
    assert echo(home)["arguments"] == {"greeting": "hello"}


def test_busy_port_is_found_before_ray_starts(home: Cluster, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    second = Cluster(
        home.settings.model_copy(update={"state": tmp_path / "state"}),
        home.variables | {"TRIVIUM_STATE": str(tmp_path / "state"), "TRIVIUM_GCS_PORT": "29000"},
    )
    result = second.trivium("up", check=False)
    assert result.returncode != 0
    assert f"port {home.settings.http_port} (gateway) is taken by another program" in result.stderr


@pytest.mark.parametrize("command", ["up", "down"])
def test_one_at_a_time_and_the_other_says_what_to_do(home: Cluster, command: str) -> None:
    with open(home.state / ".runtime.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = home.trivium(command, check=False)
    assert result.returncode == 1 and "Ctrl-C there once it only says that replicas are finishing" in result.stderr
    assert echo(home)


def test_down_without_up_ends_nothing(home: Cluster, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    stranger = Cluster(home.settings, home.variables | {"TRIVIUM_STATE": str(tmp_path / "state")})
    assert "nothing to end" in stranger.trivium("down").stdout
    assert echo(home)


def test_up_joins_a_head_that_runs_and_down_leaves_it(theirs: Cluster) -> None:
    variables = theirs.variables | client_environment(theirs.settings)
    serve = [RAY.parent / "serve", "deploy", their_application(theirs)]
    subprocess.run(serve, env=variables, check=True, capture_output=True, cwd=theirs.state)
    theirs.trivium("up", "--config", config(theirs.state, greeting="joined"))
    assert theirs.status()["applications"].keys() == {"echo", "theirs"}
    theirs.trivium("down")
    eventually(lambda: theirs_only(theirs), 60, "our application is gone")
    assert httpx.get(f"http://127.0.0.1:{theirs.settings.http_port}/theirs", trust_env=False).status_code == 200


def test_head_without_the_environment_is_refused(theirs: Cluster, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    stranger = Cluster(theirs.settings, theirs.variables | {"TRIVIUM_STATE": str(tmp_path / "state")})
    result = stranger.trivium("up", check=False)
    assert result.returncode != 0
    assert "was started without" in result.stderr
    assert "TRIVIUM_STATE" in result.stderr


def test_up_after_a_killed_head_starts_again(home: Cluster) -> None:
    for process in head.marked("TRIVIUM_STATE", str(home.state)):
        if process.name() in ("raylet", "gcs_server"):
            process.kill()
    assert "died" in home.trivium("up", "--config", config(home.state, greeting="second")).stdout
    assert echo(home)["arguments"] == {"greeting": "second"}


def test_down_ends_everything_of_ours_and_nothing_of_others(home: Cluster, theirs: Cluster) -> None:
    home.trivium("down")
    ours = head.marked("TRIVIUM_STATE", str(home.state))
    assert [process for process in ours if process.is_running()] == []
    assert not any(ports.busy(port) for port in ports.fixed(home.settings).values())
    assert not home.status()["up"]
    assert httpx.get(
        f"{theirs.settings.dashboard_url}/api/version",
        headers={"authorization": f"Bearer {head.token(theirs.settings)}"},
        trust_env=False,
    ).is_success


def their_application(theirs: Cluster) -> Path:
    """A Serve config of somebody else's, on the same public port: a cluster has only one."""
    path = Path(config(theirs.state, greeting="theirs"))
    found = yaml.safe_load(path.read_text())
    found["applications"][0] |= {"name": "theirs", "route_prefix": "/theirs"}
    found["http_options"] = {"host": "127.0.0.1", "port": theirs.settings.http_port}
    path.write_text(yaml.safe_dump(found))
    return path


def theirs_only(theirs: Cluster) -> bool:
    with_key = {"authorization": f"Bearer {head.token(theirs.settings)}"}
    details = httpx.get(
        f"{theirs.settings.dashboard_url}/api/serve/applications/", headers=with_key, trust_env=False
    ).json()
    return list(details["applications"]) == ["theirs"]
