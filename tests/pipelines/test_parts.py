from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import ray

from cluster.settings import Settings
from pipelines.artifacts import Dataset
from pipelines.collect import collect
from pipelines.curate import curate
from pipelines.parts import Parts
from pipelines.recipe import Recipe
from pipelines.steps import Run, manifest
from tests.pipelines.logs import corrected, write
from tests.waiting import eventually

RECIPE = Recipe.model_validate({"curation": {"replay": {"share": 0}}})
GROUP_ROWS, PART_ROWS, ROWS = 5, 10, 3000

DRIVER = f"""
import sys
from pathlib import Path
import ray
from cluster.settings import Settings
from pipelines import parts
from pipelines.collect import collect
from pipelines.curate import curate
from pipelines.recipe import Recipe
from pipelines.steps import Run
parts.PART_ROWS = {PART_ROWS}
ray.init(address=sys.argv[1], log_to_driver=False)
recipe = Recipe.model_validate_json(sys.argv[3])
run = Run.open(Settings(state=Path(sys.argv[2])), recipe, "test")
curate(run, collect(run))
"""


def snapshot(folder: Path, sizes: list[int], group: int) -> list[int]:
    """Files of so many rows, which are numbered; the numbers."""
    folder.mkdir()
    numbers = iter(range(sum(sizes)))
    for file, size in enumerate(sizes):
        rows = pa.table({"number": [next(numbers) for _ in range(size)]})
        parquet.write_table(rows, folder / f"{file}.parquet", row_group_size=group)
    return list(range(sum(sizes)))


def test_parts_hold_every_row_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.parts.PART_ROWS", 10)
    numbers = snapshot(tmp_path / "snapshot", [7, 1, 23, 4], group=4)
    parts = Parts(tmp_path / "snapshot", tmp_path / "parts")
    found = [batch["number"].to_pylist() for part in parts.all for batch in part.batches()]
    assert [number for batch in found for number in batch] == numbers
    assert [part.first for part in parts.all] == np.cumsum([0, *(part.rows for part in parts.all)])[:-1].tolist()
    assert all(part.rows <= 10 for part in parts.all)


def test_rows_are_taken_from_the_parts_that_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.parts.PART_ROWS", 10)
    numbers = snapshot(tmp_path / "snapshot", [30, 5], group=4)
    parts = Parts(tmp_path / "snapshot", tmp_path / "parts")
    parts.folder.mkdir()
    for part in parts.all:
        parquet.write_table(pa.Table.from_batches(part.batches()), part.path)
    assert parts.columns(["number"])["number"].to_pylist() == numbers
    places = np.array([33, 2, 11, 3])
    assert parts.take(places, ["number"])["number"].to_pylist() == [2, 3, 11, 33]
    assert parts.take(places[:0], ["number"]).num_rows == 0


def curated(state: Path) -> Dataset:
    run = Run.open(Settings(state=state), RECIPE, "test", say=lambda _: None)
    return curate(run, collect(run))


def files(dataset: Dataset) -> dict[str, bytes]:
    return {str(path.relative_to(dataset.path)): path.read_bytes() for path in dataset.path.rglob("*.parquet")}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_killed_job_goes_on_with_the_parts_that_it_lacks_and_ends_with_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.setattr("pipelines.collect.GROUP_ROWS", GROUP_ROWS)
    monkeypatch.setattr("pipelines.parts.PART_ROWS", PART_ROWS)
    state, undisturbed = tmp_path / "state", tmp_path / "undisturbed"
    write(state, corrected(ROWS))
    collect(Run.open(Settings(state=state), RECIPE, "test", say=lambda _: None))
    shutil.copytree(state, undisturbed)

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, address, str(state), RECIPE.model_dump_json()]

    def made() -> int:
        return len(list(state.glob("datasets/.prepared-*/*.parquet")))

    with subprocess.Popen(command) as driver:
        eventually(lambda: driver.poll() is not None or made() > 4, 120, "some parts are made")
        driver.kill()
    seen = made()
    whole = curated(undisturbed)
    resumed = curated(state)
    parts, found = (manifest(resumed.path)[name] for name in ("parts", "parts_found"))
    assert parts > ROWS // PART_ROWS - 1 and 4 < seen <= found < parts
    assert (manifest(whole.path)["parts"], manifest(whole.path)["parts_found"]) == (parts, 0)
    assert resumed.digest == whole.digest and files(resumed) == files(whole)
    assert list(state.glob("datasets/.prepared-*")) == []
