"""The notebooks run from top to bottom against the session's cluster, and stay what they are: calls only."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import nbformat
import pytest

from tests.conftest import Cluster

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
INSIDE = {"cluster", "services", "pipelines", "demo", "trivium", "ray", "vllm"}


def code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_imports_nothing_from_inside_and_carries_no_output(path: Path) -> None:
    assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)
    for source in code(path):
        lines = [line for line in source.splitlines() if not line.startswith("!") and "= !" not in line]
        for node in ast.walk(ast.parse("\n".join(lines), mode="exec")):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & INSIDE


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(
    path: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    # `!trivium` must find the command that belongs to this environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{cluster.variables['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Error:" not in told and "Traceback" not in told, told
