"""The Ray head of this machine: start it, join one that runs, end what was started and nothing else."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from cluster import durable, ports
from cluster.environment import environment, folder, make_folder, token_path
from cluster.settings import Settings

MARK = "TRIVIUM_HEAD"
"""Variable that only the processes of one head have. Workers, HAProxy, engines and job drivers inherit it."""


@dataclass(frozen=True)
class Head:
    """What `state/runtime.json` says about the head that `up` uses."""

    mark: str | None
    """Value of `MARK` in its processes; None if somebody else started it."""
    applications: dict[str, str]
    """Serve applications that `up` deployed, and a digest of what each was deployed as."""
    options: dict[str, Any] | None = None
    """What the last `up` was given: a later one without options keeps it."""
    place: str | None = None
    """Folder of its logs, sockets and GCS storage; None if somebody else started it."""
    gcs: list[str] | None = None
    """Command line of its GCS, for `revive`."""

    @classmethod
    def read(cls, settings: Settings) -> Head | None:
        try:
            return cls(**json.loads(_file(settings).read_text()))
        except FileNotFoundError:
            return None

    def write(self, settings: Settings) -> None:
        durable.replace(_file(settings), json.dumps(asdict(self), indent=1).encode(), 0o600)


def start(settings: Settings) -> Head:
    """`ray start --head` with everything in `environment(settings)`; about 10 s. Raises `ValueError` if it cannot."""
    ports.check_free(settings)
    check_space(settings)
    place, port, mark = make_folder(settings), ports.fixed(settings), secrets.token_hex(8)
    head = Head(mark, {}, place=str(place))
    head.write(settings)  # first, so that `down` ends what a killed `up` leaves behind
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"),
        f"--temp-dir={place / 'ray'}",  # one level down: Ray makes its own folder everybody's
        # More than there are: an engine, its replica, the rollout and the wheel mostly wait, and a deployment that
        # does not fit only waits for ever.
        f"--num-cpus={max(8, os.cpu_count() or 1)}",
        *(f"--node-ip-address={settings.node_ip}" for _ in [0] if not settings.alone),
        f"--port={port['gcs']}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={port['dashboard']}",
        f"--node-manager-port={port['node-manager']}",
        f"--object-manager-port={port['object-manager']}",
        f"--runtime-env-agent-port={port['runtime-env-agent']}",
        f"--dashboard-agent-grpc-port={port['dashboard-agent-grpc']}",
        f"--dashboard-agent-listen-port={port['dashboard-agent-http']}",
        f"--metrics-export-port={port['ray-metrics']}",
        f"--ray-client-server-port={port['ray-client']}",
    ]
    for _ in range(3):  # Ray gives its processes 30 s to start, which a machine that does much else may miss
        # Never from what another head stored: its actors would be waited for, and they are gone.
        shutil.rmtree(_storage(head), ignore_errors=True)
        result = subprocess.run(
            command, **_apart(settings, head), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if result.returncode == 0:
            (gcs,) = [process for process in processes(head) if process.info["name"] == "gcs_server"]
            head = replace(head, gcs=gcs.cmdline())
            head.write(settings)
            return head
        end(head)
    raise ValueError(f"Ray did not start: {_last_line(result.stdout)} (its logs: {place}/ray)")


def revive(settings: Settings, head: Head) -> bool:
    """Start the GCS again if it alone has died. Returns whether it had.

    It goes on with what it had stored, and everything else goes on as it did meanwhile: only what asks the GCS waits
    (new actors, Serve's configuration, jobs), for `RAY_gcs_rpc_server_reconnect_timeout_s`.
    """
    names = _names(head)
    if head.gcs is None or "raylet" not in names or "gcs_server" in names:
        return False
    subprocess.Popen(head.gcs, **_apart(settings, head), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return True


def alive(head: Head) -> bool:
    """Whether the head's two processes without which nothing works are there."""
    return {"gcs_server", "raylet"} <= _names(head)


def processes(head: Head) -> list[psutil.Process]:
    """The processes that `start` started, and what they started.

    A Ray agent whose raylet was killed lives on, has no parent that tells, and its title has overwritten its
    environment; but it still writes to the head's logs. Below the place, but not there, others read what serving says
    of its load (`cluster/pressure.py`): they are not the head's.
    """
    if head.mark is None:
        return []
    found = marked(MARK, head.mark)
    others = set(psutil.process_iter(["name"])) - set(found) if head.place else set()
    return found + [process for process in others if _writes_below(process, f"{head.place}/ray/")]


def _writes_below(process: psutil.Process, folder: str) -> bool:
    try:
        return any(file.path.startswith(folder) for file in process.open_files())
    except (psutil.Error, OSError):  # another user's, or just gone
        return False


def marked(variable: str, value: str) -> list[psutil.Process]:
    """This user's processes with the variable, and their descendants: a long title overwrites the environment."""
    everything = {process.pid: process for process in psutil.process_iter(["name", "ppid"])}
    found = {pid for pid, process in everything.items() if _environ(process).get(variable) == value}
    grown = -1
    while grown < len(found):
        grown = len(found)
        found |= {pid for pid, process in everything.items() if process.info["ppid"] in found}
    return [everything[pid] for pid in found - {os.getpid()}]


def end(head: Head, patience_s: float = 1) -> int:
    """End every process of a head that `start` started. Returns how many there were.

    What must last is on disk before anybody is told so, and so nothing is asked to finish: draining would take as long
    as the longest stream. Done twice, because a process may have been born during the first.
    """
    ended: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
        chosen = processes(head)
        ended |= {process.pid for process in chosen}
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(chosen, timeout=patience_s)
    return len(ended)


def clear(settings: Settings) -> None:
    """Remove Ray's logs and sockets, and that there was a head."""
    shutil.rmtree(folder(settings), ignore_errors=True)
    _file(settings).unlink(missing_ok=True)


def find(settings: Settings) -> psutil.Process | None:
    """The GCS on this machine that listens on the head's port, whoever started it."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == settings.gcs_port and connection.pid:
            process = psutil.Process(connection.pid)
            return process if process.name() == "gcs_server" else None
    return None


def check_environment(settings: Settings, gcs: psutil.Process) -> None:
    """Raise `ValueError` that names what a head started by somebody else lacks of `environment(settings)`."""
    have = _environ(gcs)
    if not have:
        raise ValueError(
            f"the Ray head on port {settings.gcs_port} belongs to another user; choose another TRIVIUM_GCS_PORT"
        )
    wrong = [name for name, value in environment(settings).items() if have.get(name) != value]
    if wrong:
        raise ValueError(
            f"the Ray head on port {settings.gcs_port} was started without {', '.join(sorted(wrong))}; "
            'end it and start it again after `eval "$(trivium env)"`, or let `trivium up` start its own '
            "on other ports (TRIVIUM_GCS_PORT, TRIVIUM_DASHBOARD_PORT)"
        )


def token(settings: Settings) -> str:
    return token_path(settings).read_text().strip()


def check_space(settings: Settings) -> None:
    """Raise `ValueError` if the disk is nearly full: Ray stops working when it is at 95 %, in ways hard to read."""
    for place in (settings.state, folder(settings).parent):
        usage = shutil.disk_usage(place)
        if usage.free < 1 << 30:
            raise ValueError(
                f"the disk of {place} has {usage.free >> 20} MiB left and Trivium needs 1024; "
                "free some space, or set TRIVIUM_STATE and TMPDIR to another disk"
            )


def _apart(settings: Settings, head: Head) -> dict[str, Any]:
    """How a process of the head is started: as `subprocess` takes it."""
    assert head.mark
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    # The environment's own folder first: jobs call `trivium`, compilers call `ninja`.
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    storage = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(_storage(head))}

    return {
        "env": {**inherited, **environment(settings), **storage, "PATH": path, MARK: head.mark},
        "cwd": settings.state,
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,  # a Ctrl-C in the terminal must not reach the cluster
    }


def _storage(head: Head) -> Path:
    assert head.place
    return Path(head.place) / "gcs"


def _names(head: Head) -> set[str]:
    return {process.info["name"] for process in processes(head)}


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # another user's, or just gone
        return {}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _file(settings: Settings) -> Path:
    return settings.state / "runtime.json"
