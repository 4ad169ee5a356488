from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.artifacts import Dataset
from tests.pipelines import training


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    """Ray in this process, for steps on Ray Data and Ray Train: no dashboard, no other process's cluster."""
    # A busy machine may need longer than Ray's 30 s to start its processes.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="package")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return training.dataset(tmp_path_factory.mktemp("state") / "datasets" / "curate-1")


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return training.models(tmp_path_factory.mktemp("models"))
