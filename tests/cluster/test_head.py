"""What can be seen of a head without starting Ray; the rest is in test_runtime.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster import head
from cluster.environment import environment
from cluster.head import Head
from cluster.settings import Settings
from tests.waiting import ended


@contextmanager
def process(variables: dict[str, str], does: str = "") -> Iterator[psutil.Process]:
    """A process with this environment, as a Ray head that somebody started has one."""
    program = f"{does}\nprint('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout
        started.stdout.readline()
        yield psutil.Process(started.pid)
        started.kill()


@pytest.fixture
def settings(state: Path) -> Settings:
    state.mkdir()
    return Settings(state=state)


def test_head_with_the_environment_is_joined(settings: Settings) -> None:
    with process(environment(settings)) as gcs:
        head.check_environment(settings, gcs)


def test_head_without_the_environment_is_refused_and_what_is_missing_is_named(settings: Settings) -> None:
    have = environment(settings)
    del have["RAY_AUTH_MODE"]
    have["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
    with process(have) as gcs, pytest.raises(ValueError) as refusal:
        head.check_environment(settings, gcs)
    assert "started without RAY_AUTH_MODE, RAY_SERVE_ENABLE_HA_PROXY;" in str(refusal.value)
    assert 'eval "$(trivium env)"' in str(refusal.value)


def test_process_that_writes_its_logs_is_the_heads_and_one_that_reads_its_load_is_not(tmp_path: Path) -> None:
    ours = Head("0123456789abcdef", {}, place=str(tmp_path))
    (tmp_path / "ray").mkdir()
    agent = f"file = open({str(tmp_path / 'ray' / 'agent.log')!r}, 'w')"
    reader = (
        "from pathlib import Path\nfrom cluster.pressure import Gauge, Node\n"
        f"path = Path({str(tmp_path / 'pressure')!r})\ngauge, node = Gauge(path), Node(path)\nnode.load()"
    )
    with process({**os.environ}, agent) as logs, process({**os.environ}, reader) as reads:
        assert reads.open_files(), "a memory map keeps its file open"
        found = {each.pid for each in head.processes(ours)}
        assert logs.pid in found and reads.pid not in found


def test_only_processes_with_the_mark_are_ended(settings: Settings) -> None:
    ours = Head("0123456789abcdef", {})
    with (
        process({**os.environ, head.MARK: "another"}) as other,
        process({**os.environ, head.MARK: str(ours.mark)}) as own,
    ):
        assert [each.pid for each in head.processes(ours)] == [own.pid]
        assert head.end(ours) == 1
        assert other.is_running()
        assert ended(own)


def test_what_up_started_is_remembered(settings: Settings) -> None:
    assert Head.read(settings) is None
    ours = Head("mark", {"assistant": "digest"}, {"model": "seed"})
    ours.write(settings)
    assert Head.read(settings) == ours
    head.clear(settings)
    assert Head.read(settings) is None


def test_full_disk_is_found_before_ray_fails_on_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100 << 20))
    with pytest.raises(ValueError, match="has 100 MiB left and Trivium needs 1024; free some space"):
        head.check_space(settings)
