"""Machines for a test: namespaces of network, processes, mounts and name on this one, each with an sshd, on one bridge.

As between machines, /tmp, /home, /dev/shm, processes, ports and names are each one's own; what is shared is said, in
the place of an NFS. When the block ends, so does every process in them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.waiting import eventually

USER = "trivium"
PROGRAMS = ("ip", "unshare", "ssh", "ssh-keygen", "sshd", "rsync")
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

BOOT = """
set -e
hostname {name}
mount --bind {folder}/passwd /etc/passwd
mount -t tmpfs none /mnt
cp {folder}/host_key {folder}/../key.pub /mnt
mkdir -p /run/sshd
for path in {shared}; do mkdir -p /mnt/$path; mount --bind $path /mnt/$path; done
mount -t tmpfs none /dev/shm
mount --bind {folder}/home /home
mount --bind {folder}/tmp /tmp
for path in {shared}; do mkdir -p $path; mount --bind /mnt/$path $path; done
exec {sshd} -D -e -f /dev/null -h /mnt/host_key -o ListenAddress={address} -o AuthorizedKeysFile=/mnt/key.pub \
-o PermitRootLogin=yes -o StrictModes=no -o UsePAM=no -o PidFile=none
"""


def lacking() -> str | None:
    """What this machine lacks for it; None if nothing."""
    if os.geteuid() != 0:
        return "run as root to make network namespaces"
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=PATH)]:
        return f"install {', '.join(missing)} (Debian: iproute2, openssh-server, rsync)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "true"], capture_output=True)
    return None if tried.returncode == 0 else f"namespaces are not allowed here: {tried.stderr.decode().strip()}"


@dataclass(frozen=True)
class Host:
    """One machine."""

    name: str
    address: str
    folder: Path
    link: str
    """Its end of the cable, on this side."""
    key: Path
    """For ssh."""

    @property
    def home(self) -> Path:
        """Its user's home, as it is seen from here."""
        return self.folder / "home" / USER

    def run(self, command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command over ssh."""
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")
        options = [word for option in quiet for word in ("-o", option)]
        return subprocess.run(
            ["ssh", "-i", str(self.key), *options, f"{USER}@{self.address}", command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def cut(self) -> None:
        """Pull the cable."""
        _run(f"ip link set {self.link} down")

    def join(self) -> None:
        _run(f"ip link set {self.link} up")

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes whose title has `title` in it."""
        return [each for each in psutil.process_iter() if _inside(each, self.name) and title in _title(each)]


@contextmanager
def hosts(folder: Path, shared: list[Path], count: int) -> Iterator[list[Host]]:
    """`count` machines that all see `shared`, under the same path as here."""
    bridge = f"tri{os.getpid()}"
    network = f"10.214.{os.getpid() % 254}"  # test runs beside each other are rare and would differ
    key = folder / "key"
    _run(f"ssh-keygen -q -t ed25519 -N  -f {key}")
    _run(f"ip link add {bridge} type bridge")
    made: list[tuple[Host, subprocess.Popen[bytes]]] = []
    try:
        _run(f"ip addr add {network}.1/24 dev {bridge}")
        _run(f"ip link set {bridge} up")
        for number in range(2, 2 + count):
            name = f"{bridge}-{number}"
            host = Host(name, f"{network}.{number}", folder / name, f"{bridge}.{number}", key)
            made.append((host, _boot(host, bridge, shared)))
        for host, _ in made:
            eventually(lambda host=host: host.run("true").returncode == 0, 30, f"ssh to {host.name}")  # type: ignore[misc]
        yield [host for host, _ in made]
    finally:
        for host, process in made:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # `unshare` takes the first process of the host with it
            process.wait()
            subprocess.run(["ip", "netns", "del", host.name], check=False)
            # Else it stays for as long as the kernel takes over the connections that were open.
            subprocess.run(["ip", "link", "del", host.link], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", bridge], check=False)


def _boot(host: Host, bridge: str, shared: list[Path]) -> subprocess.Popen[bytes]:
    for part in ("tmp", f"home/{USER}"):
        (host.folder / part).mkdir(parents=True)
    (host.folder / "tmp").chmod(0o1777)
    # Before root: programs ask for the name and the home of number 0.
    passwd = f"{USER}:x:0:0::/home/{USER}:/bin/bash\n" + Path("/etc/passwd").read_text()
    if "\nsshd:" not in passwd:
        passwd += "sshd:x:74:74::/run/sshd:/usr/sbin/nologin\n"
    (host.folder / "passwd").write_text(passwd)
    _run(f"ssh-keygen -q -t ed25519 -N  -f {host.folder / 'host_key'}")
    _run(f"ip netns add {host.name}")
    _run(f"ip link add {host.link} type veth peer name eth0 netns {host.name}")
    _run(f"ip link set {host.link} master {bridge} up")
    _run(f"ip -n {host.name} addr add {host.address}/24 dev eth0")
    _run(f"ip -n {host.name} link set eth0 up")
    _run(f"ip -n {host.name} link set lo up")
    boot = host.folder / "boot.sh"
    sshd = shutil.which("sshd", path=PATH)
    boot.write_text(BOOT.format(**{**vars(host), "shared": " ".join(map(str, shared)), "sshd": sshd}))
    apart = ["--pid", "--fork", "--mount", "--uts", "--ipc", "--mount-proc", "--kill-child", "--propagation", "private"]
    with (host.folder / "boot.log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", host.name, "unshare", *apart, "sh", str(boot)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"PATH": PATH},
        )


def _run(command: str) -> None:
    """A command of words between single spaces; between two of them is an empty one."""
    subprocess.run(command.split(" "), check=True, env={**os.environ, "PATH": PATH})


def _inside(process: psutil.Process, name: str) -> bool:
    try:
        there = os.stat(f"/proc/{process.pid}/ns/net")
    except OSError:  # just gone
        return False
    return os.path.samestat(there, os.stat(f"/run/netns/{name}"))


def _title(process: psutil.Process) -> str:
    try:
        return f"{process.name()} {' '.join(process.cmdline())}"
    except psutil.Error:
        return ""
