"""Ray's cluster launcher takes our files: its schema, defaults and checks. `tests/e2e/test_machines.py` runs one."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.ports import fixed
from cluster.settings import Settings

ROOT = Path(__file__).parent.parent.parent
FILES = {"local": ROOT / "cluster.yaml", "aws": ROOT / "cluster" / "aws.yaml"}


def read(provider: str) -> dict[str, Any]:
    return yaml.safe_load(FILES[provider].read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` prepares and checks it, up to where it would ask the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(config))
    validate_config(config)
    return config


@pytest.mark.parametrize("provider", FILES)
def test_ray_takes_the_file_as_it_is(provider: str) -> None:
    config = prepared(read(provider))
    assert config["provider"]["type"] == provider
    assert config["head_node_type"] in config["available_node_types"]


def test_the_shipped_file_is_one_machine_and_listed_workers_are_started() -> None:
    config = read("local")
    assert prepared(config)["max_workers"] == 0
    config["provider"]["worker_ips"] = ["10.0.0.2", "10.0.0.3"]
    (machine,) = prepared(config)["available_node_types"].values()
    assert machine["min_workers"] == machine["max_workers"] == 2


@pytest.mark.parametrize("provider", FILES)
def test_a_mistyped_key_is_refused(provider: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="head_start_ray_comands"):
        prepared(read(provider) | {"head_start_ray_comands": []})


def test_machines_of_a_cloud_start_as_those_of_a_list() -> None:
    local, cloud = read("local"), read("aws")
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert local[commands] == cloud[commands]


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_their_ports_are_those_that_status_and_the_firewall_name(commands: str) -> None:
    ours = fixed(Settings(state=Path("/state")))
    (start,) = (command for command in read("local")[commands] if "ray start" in command)
    given = {name: int(port) for name, port in re.findall(r"--([a-z-]+-port)=(\d+)", start)}
    assert given.pop("dashboard-port", ours["dashboard"]) == ours["dashboard"]
    assert given == {
        "runtime-env-agent-port": ours["runtime-env-agent"],
        "dashboard-agent-grpc-port": ours["dashboard-agent-grpc"],
        "dashboard-agent-listen-port": ours["dashboard-agent-http"],
        "metrics-export-port": ours["ray-metrics"],
    }


@pytest.mark.parametrize("provider", FILES)
def test_commands_are_shell(provider: str) -> None:
    config = read(provider)
    for key in (key for key in config if key.endswith("_commands")):
        for command in config[key]:
            subprocess.run(["bash", "-n", "-c", command], check=True)
