"""The shape of the house: who may import whom, and that its doors are thin."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import trivium

ROOT = Path(__file__).parent.parent
PACKAGES = ("cluster", "services", "pipelines", "demo")
MAY_IMPORT = {
    "cluster": set[str](),
    "services": {"cluster"},
    "pipelines": {"cluster"},
    "demo": set[str](),  # a pure client: HTTP and the command line
}
HEAVY = {"ray", "torch", "vllm", "transformers", "mlflow", "deltalake", "pyarrow", "pandas", "openai", "fastapi"}


def imports(file: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.ImportFrom(level=level) if level:
                pytest.fail(f"{file}: a relative import hides where it goes")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    forbidden = set(PACKAGES) | {"trivium", "tests", "benchmarks"}
    forbidden -= MAY_IMPORT[package] | {package}
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in imports(file)
        if name in forbidden
    }
    assert not wrong


def test_no_module_is_named_after_a_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    libraries = {re.split(r"[^\w-]", each)[0].replace("-", "_").lower() for each in listed} | sys.stdlib_module_names
    modules = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("*.py")} - {"__init__"}
    assert not modules & libraries


def test_every_folder_of_tests_is_a_package() -> None:
    # Without it `tests/cluster` would hide `cluster`.
    bare = {file.parent for file in (ROOT / "tests").rglob("*.py")} - {
        file.parent for file in (ROOT / "tests").rglob("__init__.py")
    }
    assert not bare


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_help_answers_in_well_under_a_second() -> None:
    # Processor time: the machine may be busy with something else.
    spent = run(
        "import contextlib, io, time, trivium\n"
        "with contextlib.redirect_stdout(io.StringIO()): trivium.main(['--help'], standalone_mode=False)\n"
        "print(time.process_time())"
    )
    assert float(spent) < 0.7


@pytest.mark.parametrize("command", sorted(trivium.COMMANDS))
def test_door_of_a_command_imports_nothing_heavy(command: str) -> None:
    loaded = run(
        "import contextlib, io, json, sys, trivium\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    trivium.main([{command!r}, '--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert not HEAVY & {name.partition(".")[0] for name in json.loads(loaded)}
