from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    """Ray in this process, for steps on Ray Data and Ray Train: no dashboard, no other process's cluster."""
    # A busy machine may need longer than Ray's 30 s to start its processes.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    yield
    ray.shutdown()
