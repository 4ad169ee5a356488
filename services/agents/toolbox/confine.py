"""The command that runs another one in a bubblewrap sandbox. Pure: what is there, and what is bound.

No network, no environment, its own processes and /proc, a root that is read-only and has only the system's programs
and one Python in it, /tmp in memory and of bounded size. Where we are root, what runs inside is a user that the machine
does not know (root is exempt from limits on processes, in a user namespace too); otherwise it is ourselves in a user
namespace. Source: bwrap(1), setpriv(1), prlimit(1), choom(1), timeout(1).
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HELPERS = ("setpriv", "choom", "nice", "prlimit", "timeout")
"""Of util-linux and coreutils; they run inside, so they must lie below /usr."""
PROGRAM = "/program"
WRITABLE = ("/tmp", "/dev/shm")
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
STRANGERS = 0x70000000
"""Users from here on belong to nobody (systemd's containers end below)."""
OPEN_FILES = 128
ORPHAN_S = 15.0
"""A program whose replica died at a bad moment ends by itself so much later than it should have."""


@dataclass(frozen=True)
class Bounds:
    """What one call may use."""

    memory_bytes: int
    """Of all its processes; no single one gets more address space."""
    disk_bytes: int
    """In /tmp, which is memory too; a sixteenth of it in /dev/shm."""
    processes: int
    seconds: float


def bubblewrap() -> str:
    """Raises `ValueError`, with what to do, where it is missing."""
    found = shutil.which("bwrap")
    if found is None:
        raise ValueError(
            "the tools python and shell run in bubblewrap, which is not installed: apt-get install bubblewrap (or dnf)"
        )
    if missing := [name for name in HELPERS if shutil.which(name, path="/usr/bin:/usr/sbin") is None]:
        raise ValueError(f"the sandbox needs {', '.join(missing)} below /usr: apt-get install util-linux")
    return found


def command(
    inside: list[str],
    bounds: Bounds,
    folders: tuple[Path, ...],
    program: int,
    seccomp: int,
    *,
    root: bool | None = None,
) -> list[str]:
    """`inside`, confined. `program` and `seccomp` are open files: what is at `PROGRAM`, and the filter."""
    root = os.geteuid() == 0 if root is None else root
    return [
        bubblewrap(),
        *(_STRANGER if root else _OURSELVES),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"),
        *_system(),
        *("--proc", "/proc", "--dev", "/dev"),
        *_memory("/tmp", bounds.disk_bytes),
        *_memory("/dev/shm", bounds.disk_bytes // 16),
        *(argument for folder in folders for argument in _bound(folder)),
        *("--perms", "0444", "--ro-bind-data", str(program), PROGRAM),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--setenv", "PATH", ":".join([*(f"{folder}/bin" for folder in folders), "/usr/bin", "/bin"])),
        *("--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8", "--setenv", "OPENBLAS_NUM_THREADS", "1"),
        *("--seccomp", str(seccomp), "--"),
        *(_as_stranger() if root else []),
        *("choom", "-n", "1000", "--", "nice", "-n", "15", "prlimit", *_limits(bounds), "--"),
        # Should nobody be left to end it.
        *("timeout", "--signal=KILL", f"{bounds.seconds + ORPHAN_S:g}"),
        *inside,
    ]


_OURSELVES = ("--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL")
_CHANGING = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
_STRANGER = ("--cap-drop", "ALL", *(argument for each in _CHANGING for argument in ("--cap-add", each)))


def _as_stranger() -> list[str]:
    user = STRANGERS + secrets.randbelow(2**24)  # one for each call: limits on processes count by user
    return [
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"),
    ]


def _limits(bounds: Bounds) -> list[str]:
    limits = {
        "as": bounds.memory_bytes,
        "nproc": bounds.processes,
        "fsize": bounds.disk_bytes,
        "nofile": OPEN_FILES,
        "cpu": max(1, int(bounds.seconds) + 1),
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
    }
    return [f"--{name}={value}:{value}" for name, value in limits.items()]


def _system() -> list[str]:
    """/usr, and what lies or points there."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM:
        if os.path.islink(name):
            arguments += ["--symlink", os.readlink(name), name]
        else:
            arguments += ["--ro-bind-try", name, name]
    # Directories are made for root alone where nobody says otherwise.
    arguments += ["--perms", "0755", "--dir", "/etc", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    return [*arguments, "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]


def _bound(folder: Path) -> list[str]:
    ways = [argument for each in reversed(folder.parents[:-1]) for argument in ("--perms", "0755", "--dir", str(each))]
    return [*ways, "--ro-bind", str(folder), str(folder)]


def _memory(folder: str, size_bytes: int) -> list[str]:
    return ["--perms", "1777", "--size", str(size_bytes), "--tmpfs", folder]


def needed(python: Path, folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """What must be bound beside /usr for an interpreter to run, and what else is wanted, each under its own name."""
    prefixes = [python.parent.parent, python.resolve().parents[1]]  # a virtual environment, and what it is made from
    wanted = dict.fromkeys(Path(os.path.abspath(path)) for path in [*prefixes, *folders])
    return tuple(path for path in wanted if not path.is_relative_to("/usr"))


def own_python() -> Path:
    """The interpreter below this one's virtual environment."""
    return Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


def check_hidden(bound: tuple[Path, ...], secret: tuple[Path, ...], whole: tuple[Path, ...]) -> None:
    """Raises `ValueError` if anything bound shows a secret folder, or lies in one of those that stay hidden whole."""
    for folder in (Path("/usr"), *bound):
        shown = folder.resolve()
        for each in (*secret, *whole):
            if each.resolve().is_relative_to(shown) or (each in whole and shown.is_relative_to(each.resolve())):
                raise ValueError(
                    f"{folder} shows {each}, which no sandbox may see; name another folder for the sandbox"
                )
