"""What a model's program tries, it tries inside: nothing gets out, nothing is left, and the host notices nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.agents.toolbox import confine
from services.agents.toolbox.sandbox import Sandbox, SandboxSettings, _open, sandbox_tools
from services.agents.toolbox.syscalls import REFUSED, seccomp_filter
from services.agents.toolbox.usage import descendants
from services.agents.tools import Result
from tests.services.agents.asking import call
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap: apt-get install bubblewrap")

Program = Callable[[str], Awaitable[Result]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "api_key").write_text("sk-trivium-secret")
    return folder


@pytest.fixture
def sandbox(state: Path) -> Sandbox:
    return limited(state)


def limited(state: Path, **settings: Any) -> Sandbox:
    return Sandbox(SandboxSettings.model_validate({"timeout_s": 20} | settings), state)


def running(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(mark in each for each in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def gone(mark: str) -> None:
    await asyncio.to_thread(eventually, lambda: not running(mark), 10, f"the end of {mark}")


# What it is for


async def test_what_a_program_prints_comes_back(sandbox: Sandbox) -> None:
    assert (await sandbox.python("print(sum(range(10)))")) == Result("45\n")
    assert (await sandbox.shell("seq 3 | sort -r | tr '\\n' ' '")) == Result("3 2 1 ")


async def test_failure_comes_back_with_what_was_said(sandbox: Sandbox) -> None:
    said = await sandbox.python("print('before')\nraise KeyError('tea')")
    assert said.failed and said.content.startswith("before\n") and "line 2" in said.content
    assert said.content.endswith("KeyError: 'tea'\n\n[exit status 1]")
    assert (await sandbox.shell("echo no >&2; exit 3")) == Result("no\n\n[exit status 3]", failed=True)


async def test_threads_processes_and_files_work_inside(sandbox: Sandbox) -> None:
    said = await sandbox.python(
        "import concurrent.futures as f, multiprocessing as m, tempfile\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    print(list(f.ThreadPoolExecutor(4).map(double, range(3))))\n"
        "    with m.get_context('fork').Pool(2) as pool: print(pool.map(double, range(3)))\n"
        "    with tempfile.TemporaryFile() as t: print(t.write(b'x' * 1000))"
    )
    assert said.content == "[0, 2, 4]\n[0, 2, 4]\n1000\n"


async def test_nothing_is_left_for_the_next_call(sandbox: Sandbox) -> None:
    assert (await sandbox.shell("echo here > /tmp/note; cat /tmp/note")).content == "here\n"
    assert "No such file" in (await sandbox.shell("cat /tmp/note")).content


async def test_tools_say_what_they_bound_and_may_be_repeated(state: Path) -> None:
    python, shell = await sandbox_tools(SandboxSettings(memory_mib=256), state)
    assert (python.name, shell.name, python.owner) == ("python", "shell", "builtin")
    assert python.idempotent and shell.idempotent and "256 MiB" in python.description
    assert (await python.run(call(code="print(1)"))).content == "1\n"
    assert (await shell.run(call(command="echo 1"))).content == "1\n"


async def test_folder_of_the_operators_can_be_read_and_not_written(state: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("1,2\n")
    said = await limited(state, folders=[folder]).shell(f"cat {folder}/a.csv; touch /tmp/c {folder}/b.csv")
    assert said.content.startswith("1,2\n") and said.content.count("touch:") == 1 and "b.csv" in said.content
    assert not (folder / "b.csv").exists()


async def test_interpreter_of_a_virtual_environment_brings_what_is_installed_there(state: Path) -> None:
    plain = await limited(state).python("import cedarpy")
    assert "ModuleNotFoundError" in plain.content
    said = await limited(state, python=sys.executable).python("import cedarpy; print(cedarpy.__name__)")
    assert said == Result("cedarpy\n")


# What it keeps in


async def test_no_network_not_even_this_machine(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        said = await sandbox.python(f"import socket; socket.create_connection(('127.0.0.1', {port}))")
        assert said.failed and "OSError" in said.content
        said = await sandbox.shell(f"bash -c 'echo out > /dev/tcp/127.0.0.1/{port}'; cat /proc/net/dev | grep -v lo:")
        assert said.content.count("|") == 4 and "not supported" in said.content  # the table's head, and no interface
        with pytest.raises(TimeoutError):
            server.accept()


async def test_no_token_no_key_no_environment(sandbox: Sandbox, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-of-ray")
    monkeypatch.setenv("SHOP_KEY", "key-of-the-shop")
    home, folder = Path.home(), state / "secrets"
    said = await sandbox.shell(
        f"cat {folder}/api_key /proc/1/root{folder}/api_key /proc/1/cwd{folder}/api_key; ls {state} {home}/.ray;"
        "env; cat /proc/*/environ; ls -a /home /var /run /srv /opt /etc; ls -l /proc/*/fd; cat /etc/shadow"
    )
    for secret in ("sk-trivium", "token-of-ray", "key-of-the-shop", "auth_token", "shadow:"):
        assert secret not in said.content.replace("/etc/shadow:", "")
    assert "api_key: No such file or directory" in said.content
    environment = await sandbox.shell("env | cut -d= -f1 | sort | tr '\\n' ' '")
    assert environment.content == "HOME LANG OPENBLAS_NUM_THREADS PATH PWD "


async def test_no_file_of_ours_is_open_inside(sandbox: Sandbox, state: Path) -> None:
    secret = os.open(state / "secrets" / "api_key", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        said = await sandbox.python("import os; print(sorted(os.listdir('/proc/self/fd')))")
    finally:
        os.close(secret)
    assert said.content == "['0', '1', '2', '3']\n"  # the last is the listing's own


async def test_links_lead_nowhere(sandbox: Sandbox, state: Path) -> None:
    key = state / "secrets" / "api_key"
    said = await sandbox.python(
        "import os\n"
        f"os.symlink({str(key)!r}, '/tmp/a'); os.symlink('/tmp/../..{key}', '/tmp/b'); os.symlink('/', '/tmp/root')\n"
        f"for path in ('/tmp/a', '/tmp/b', '/tmp/root{key}', '/proc/self/root{key}', '/proc/1/root{key}'):\n"
        "    try: print(open(path).read())\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "os.link('/usr/bin/env', '/tmp/env')"
    )
    assert set(said.content.split("\n")[:5]) <= {"FileNotFoundError", "PermissionError"}
    assert "Invalid cross-device link" in said.content


async def test_root_is_read_only(sandbox: Sandbox) -> None:
    said = await sandbox.shell(
        "for d in / /usr /usr/bin /etc /dev /proc /proc/sys/kernel; do touch $d/x; done; ls /tmp"
    )
    assert said.content.count("touch: ") == 7
    assert not any(Path(folder, "x").exists() for folder in ("/", "/usr", "/usr/bin", "/etc", "/dev"))


async def test_nobody_outside_can_be_seen_or_killed(sandbox: Sandbox) -> None:
    victim = subprocess.Popen(["sleep", "1000"])
    try:
        said = await sandbox.shell(f"kill -9 {victim.pid}; ls /proc | grep -c '^[0-9]'; kill -9 -1; echo unreached")
        assert "No such process" in said.content or "no such process" in said.content.lower()
        assert int(next(line for line in said.content.splitlines() if line.isdigit())) < 10
        assert victim.poll() is None and psutil.Process().is_running()
    finally:
        victim.kill()
        victim.wait()


async def test_system_calls_around_the_bounds_are_refused(sandbox: Sandbox) -> None:
    said = await sandbox.python(
        "import ctypes, errno, platform, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def tried(number, *arguments):\n"
        "    return 'ok' if libc.syscall(number, *arguments) >= 0 else errno.errorcode[ctypes.get_errno()]\n"
        f"numbers = {REFUSED!r}\n"
        "column = platform.machine() == 'aarch64'\n"
        "print({tried(each[column], 0, 0, 0, 0, 0) for each in numbers.values()})\n"
        "clone, clone3 = ((220, 435) if column else (56, 435))\n"
        "print(tried(clone, 0x10000000 | 17, 0, 0, 0, 0), tried(clone3, 0, 0))\n"
        "a, b = socket.socketpair(); a.send(b'hello'); print(b.recv(5))\n"
        "for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):\n"
        "    try: socket.socket(family, socket.SOCK_RAW); print('ok')\n"
        "    except OSError as error: print(errno.errorcode[error.errno])"
    )
    assert said.content.splitlines() == ["{'EPERM'}", "EPERM ENOSYS", "b'hello'", *["EAFNOSUPPORT"] * 4]


# What it bounds


async def test_fork_bomb_stays_small_and_ends(state: Path) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    exploding = asyncio.create_task(limited(state, processes=32, timeout_s=3).python(bomb))
    most = 0
    while not exploding.done():
        most = max(most, len(list(descendants(os.getpid()))))
        await asyncio.wait([exploding], timeout=0.1)
    assert exploding.result() == Result("[ended: it took longer than 3 s]", failed=True)
    assert 8 < most < 40
    await asyncio.to_thread(eventually, lambda: not list(descendants(os.getpid())), 10, "the end of the bomb")


async def test_shells_fork_bomb_too(state: Path) -> None:
    said = await limited(state, processes=32, timeout_s=2).shell("bomb() { bomb | bomb & }; bomb; sleep 100")
    assert said.failed and "[e" in said.content


@pytest.mark.parametrize("folder", confine.WRITABLE)
async def test_full_disk_is_only_its_own(sandbox: Sandbox, folder: str) -> None:
    free = shutil.disk_usage("/").free
    said = await sandbox.python(
        "import itertools, os\n"
        "try:\n"
        f"    for n in itertools.count(): open(f'{folder}/{{n}}', 'wb').write(b'x' * 2**20)\n"
        "except OSError as error: print(error.strerror)\n"
        f"s = os.statvfs('{folder}'); print(s.f_blocks * s.f_frsize >> 20)"
    )
    assert said.content.splitlines() == ["No space left on device", "64" if folder == "/tmp" else "4"]
    assert free - shutil.disk_usage("/").free < 2**29  # what others write meanwhile aside


async def test_files_without_content_are_counted_too(sandbox: Sandbox) -> None:
    said = await sandbox.python("import itertools\nfor n in itertools.count(): open(f'/tmp/{n}', 'w').close()")
    assert said == Result("[ended: it made more than 20000 files]", failed=True)


async def test_memory_of_one_process_is_bounded(state: Path) -> None:
    said = await limited(state, memory_mib=200).python("x = bytearray(300 * 2**20)")
    assert said.failed and "MemoryError" in said.content


async def test_memory_of_all_processes_together_is_bounded(state: Path) -> None:
    said = await limited(state, memory_mib=200).python(
        "import os, time\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (80 * 2**20); time.sleep(60); os._exit(0)\n"
        "time.sleep(60)"
    )
    assert said == Result("[ended: it used more than 200 MiB of memory]", failed=True)


async def test_memory_that_processes_share_counts_once(state: Path) -> None:
    said = await limited(state, memory_mib=200).python(
        "import os, time\n"
        "x = bytearray(b'x') * (100 * 2**20)\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
        "for _ in range(4): os.wait()\n"
        "print('done')"
    )
    assert said == Result("done\n")


async def test_time_is_bounded_and_takes_everything_with_it(state: Path) -> None:
    mark = uuid.uuid4().hex
    said = await limited(state, timeout_s=3).shell(f"echo begun; setsid sh -c 'sleep 1000; : {mark}' & sleep 1000")
    assert said == Result("begun\n\n[ended: it took longer than 3 s]", failed=True)
    await gone(mark)


async def test_what_stays_in_the_background_ends_with_the_call(sandbox: Sandbox) -> None:
    mark = uuid.uuid4().hex
    said = await sandbox.shell(f"nohup setsid sh -c 'sleep 1000; : {mark}' >/dev/null 2>&1 & sleep 0.2; echo left")
    assert said == Result("left\n")
    await gone(mark)


async def test_output_is_bounded(state: Path) -> None:
    sandbox = limited(state, output_bytes=1000, at_once=2)
    floods = [asyncio.wait_for(sandbox.shell("yes"), 60) for _ in range(10)]  # one is enough to lose a race, sometimes
    for said in await asyncio.gather(*floods):
        assert said.failed and said.content == "y\n" * 500 + "\n[ended: it wrote more than 1000 bytes]"


async def test_call_that_is_given_up_leaves_nothing_running_whenever_that_is(sandbox: Sandbox) -> None:
    mark = uuid.uuid4().hex
    for milliseconds in (0, 1, 2, 3, 5, 7, 9, 12, 15, 20, 30, 50, 100):
        task = asyncio.create_task(sandbox.shell(f"sh -c 'sleep 1000; : {mark}'"))
        await asyncio.wait([task], timeout=milliseconds / 1000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    task = asyncio.create_task(sandbox.shell(f"sh -c 'sleep 1000; : {mark}'"))
    await asyncio.to_thread(eventually, lambda: running(mark), 10, "the program")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(mark)


async def test_replica_that_is_killed_takes_its_programs_along(state: Path) -> None:
    mark = uuid.uuid4().hex
    replica = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import asyncio; from pathlib import Path\n"
            "from services.agents.toolbox.sandbox import Sandbox, SandboxSettings\n"
            "async def main(): await Sandbox(SandboxSettings(timeout_s=500), Path('/nowhere')).shell(\n"
            f'    "sh -c \'sleep 1000; : {mark[:16]}""{mark[16:]}\'")\n'
            "asyncio.run(main())",
        ]
    )
    try:
        await asyncio.to_thread(eventually, lambda: running(mark), 20, "the program")
    finally:
        replica.send_signal(signal.SIGKILL)
        replica.wait()
    await gone(mark)


async def test_no_more_than_so_many_at_once(state: Path) -> None:
    mark = uuid.uuid4().hex
    sandbox = limited(state, at_once=1)
    first, second = [asyncio.create_task(sandbox.shell(f"sh -c 'sleep 1000; : {mark}-{n}'")) for n in "ab"]
    await asyncio.to_thread(eventually, lambda: running(f"{mark}-a"), 10, "the first program")
    assert not running(f"{mark}-b")
    first.cancel()
    await asyncio.to_thread(eventually, lambda: running(f"{mark}-b"), 10, "the second program")
    second.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(first, second, return_exceptions=True)
    )


# Where it cannot be had


def test_missing_bubblewrap_is_refused_with_what_to_do(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="bubblewrap, which is not installed: apt-get install bubblewrap"):
        limited(state)


async def test_sandbox_that_does_not_work_is_refused_at_start(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace'; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no sandbox can be made here \(bwrap: No permissions"):
        await sandbox_tools(SandboxSettings(), state)


def test_folder_that_shows_a_secret_is_refused(state: Path) -> None:
    for folder in (state, state.parent, state / "secrets", Path("/"), Path.home()):
        with pytest.raises(ValueError, match="which no sandbox may see"):
            limited(state, folders=[folder])


def test_filter_knows_both_machines_and_says_so_of_others() -> None:
    assert len(seccomp_filter("x86_64")) % 8 == len(seccomp_filter("aarch64")) % 8 == 0
    with pytest.raises(ValueError, match="not of riscv64"):
        seccomp_filter("riscv64")


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are not root's already")
def test_it_holds_for_an_unprivileged_user_too() -> None:
    script = (
        "id -u; cat /proc/self/uid_map | tr -s ' '; grep CapBnd /proc/self/status; touch /usr/x; unshare -U true;"
        "n=0; while [ $n -lt 60 ]; do sleep 100 & n=$((n+1)); done; echo unreached"
    )
    bounds = confine.Bounds(2**29, 2**24, 16, 10)
    with _open(script.encode()) as program, _open(seccomp_filter()) as seccomp:
        said = subprocess.run(
            confine.command(["/bin/sh", confine.PROGRAM], bounds, (), program, seccomp, root=False),
            user=65534,
            group=65534,
            extra_groups=[],
            pass_fds=(program, seccomp),
            env={},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
    lines = said.stdout.splitlines()
    assert lines[0] == "65534" and lines[1].split()[2] == "1" and "0000000000000000" in lines[2], said
    for refused in ("Read-only file system", "Operation not permitted", "Cannot fork"):
        assert refused in said.stderr
    assert "unreached" not in said.stdout
