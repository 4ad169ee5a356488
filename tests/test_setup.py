"""Set-up: the Makefile's sentences and choices, without installing anything, and the launcher's file."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "overrides.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def make(clone: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "UV_"))}
    return subprocess.run(
        ["make", ".venv/ready", *arguments],
        cwd=clone,
        env={**plain, "PIP_CONFIG_FILE": os.devnull, **variables},
        capture_output=True,
        text=True,
    )


def test_wrong_python_is_one_sentence_with_the_fix(clone: Path) -> None:
    result = make(clone, "PYTHON=/absent/python3.9")
    assert result.returncode != 0
    assert "Trivium needs Python 3.11, and /absent/python3.9 is not there; install it, or name it" in result.stderr
    assert not (clone / ".venv").exists()


def test_full_disk_is_one_sentence_with_the_fix(clone: Path) -> None:
    result = make(clone, "FREE_MIB=999999999")
    assert result.returncode != 0
    assert re.search(r"this disk has \d+ MiB left and the environment needs 999999999; free some", result.stderr)
    assert not (clone / ".venv").exists()


def test_local_folder_of_wheels_gives_torch_if_pip_names_one(clone: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    assert "--torch-backend cpu" in make(clone, "-n", PIP_FIND_LINKS=str(wheels)).stdout
    (wheels / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    command = make(clone, "-n", PIP_FIND_LINKS=str(wheels)).stdout
    assert f"--find-links {wheels}/ " in command
    assert "--torch-backend" not in command


def test_stamp_makes_a_second_run_do_nothing(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / "ready").touch()
    assert "is up to date" in make(clone).stdout


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line.partition(" ;")[0].strip()) for line in lines)


def test_launcher_accepts_cluster_yaml() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())))
