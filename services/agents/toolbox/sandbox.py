"""`python` and `shell`: code of a model's, in a sandbox of its own for each call, of which nothing is left.

Bounds come in three layers: namespaces and read-only binds (`confine.py`), limits of the kernel for each process and a
filter for what escapes them (`syscalls.py`), and a look every 50 ms at what all of them use together, because a limit
for each process is no limit for their sum and control groups are seldom ours. What is left outside: buffers of pipes
and local sockets, at most `OPEN_FILES` of each process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster.settings import Strict
from services.agents.toolbox import confine
from services.agents.toolbox.confine import Bounds
from services.agents.toolbox.syscalls import seccomp_filter
from services.agents.toolbox.usage import descendants, usage
from services.agents.tools import Invocation, Result, Tool, ToolError

WATCH_S = 0.05
QUEUE_S = 60.0
"""Longest that a call waits for others to end."""
MOST_FILES = 20_000
END_S = 10.0
"""A sandbox that is still there so long after its end is a defect."""
OWN = 2
"""Processes inside that are not the program's: bubblewrap's first, and `timeout`."""
LONGEST = 100_000
"""Characters of a program."""


class SandboxSettings(Strict):
    """The tools `python` and `shell`. Needs bubblewrap 0.8 (Debian 12, Ubuntu 24.04, Fedora 38)."""

    python: Path | None = None
    """An interpreter, such as that of a virtual environment with what agents may import; the one below our own virtual
    environment if left out, which mostly has the standard library alone."""
    folders: tuple[Path, ...] = ()
    """Folders that can be read inside, under their own names."""
    memory_mib: int = Field(512, ge=32)
    """Of all processes of one call."""
    disk_mib: int = Field(64, ge=1)
    """In /tmp, gone after the call; it is memory too."""
    processes: int = Field(64, ge=2)
    """Threads count."""
    timeout_s: float = Field(30.0, gt=0)
    output_bytes: int = Field(32 * 1024, ge=1)
    """Whoever writes more is ended."""
    at_once: int = Field(2, ge=1)
    """Calls of one replica; others wait."""


@dataclass
class Output:
    """What a program wrote so far."""

    content: bytearray = field(default_factory=bytearray)


class Sandbox:
    """Raises `ValueError`, with what to do, where no sandbox can be had; `check` tries one."""

    def __init__(self, settings: SandboxSettings, state: Path) -> None:
        self._settings = settings
        self._python = settings.python or confine.own_python()
        self._folders = confine.needed(self._python, settings.folders)
        confine.check_hidden(self._folders, (Path.home(),), (state, Path.home() / ".ray", Path.home() / ".ssh"))
        self._bounds = Bounds(
            settings.memory_mib * 2**20, settings.disk_mib * 2**20, settings.processes, settings.timeout_s
        )
        self._filter = seccomp_filter()
        self._slots = asyncio.Semaphore(settings.at_once)
        confine.bubblewrap()

    async def check(self) -> None:
        """Both kinds of program run. Raises `ValueError` with what bubblewrap says where they do not."""
        for said in (await self.shell("echo ready"), await self.python("print('ready')")):
            if said.content != "ready\n":
                raise ValueError(
                    f"no sandbox can be made here ({said.content.strip()}); the tools python and shell need bubblewrap "
                    "0.8 or later and user namespaces (sysctl user.max_user_namespaces, "
                    "kernel.apparmor_restrict_unprivileged_userns)"
                )

    async def python(self, code: str) -> Result:
        return await self._run([str(self._python), "-I", "-B", confine.PROGRAM], code)

    async def shell(self, script: str) -> Result:
        return await self._run(["/bin/sh", confine.PROGRAM], script)

    async def _run(self, inside: list[str], program: str) -> Result:
        try:
            async with asyncio.timeout(QUEUE_S):
                await self._slots.acquire()
        except TimeoutError:
            raise ToolError("too many programs are running; try again later") from None
        try:
            return await self._outcome(await self._started(inside, program))
        finally:
            self._slots.release()

    async def _started(self, inside: list[str], program: str) -> asyncio.subprocess.Process:
        with _open(program.encode(errors="replace")) as code, _open(self._filter) as seccomp:
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *confine.command(inside, self._bounds, self._folders, code, seccomp),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(code, seccomp),
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
            )
            try:
                return await asyncio.shield(starting)
            except asyncio.CancelledError:  # asyncio itself would wait for pipes that nobody empties
                await _end(await starting)
                raise

    async def _outcome(self, process: asyncio.subprocess.Process) -> Result:
        output = Output()
        ends = [asyncio.create_task(self._finish(process, output)), asyncio.create_task(self._watch(process.pid))]
        try:
            done, _ = await asyncio.wait(ends, timeout=self._bounds.seconds, return_when=asyncio.FIRST_COMPLETED)
            why = done.pop().result() if done else f"it took longer than {self._bounds.seconds:g} s"
        finally:
            for each in ends:
                each.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            await _end(process)
        text = bytes(output.content[: self._settings.output_bytes]).decode(errors="replace")
        if why:
            return Result(f"{text}\n[ended: {why}]".lstrip("\n"), failed=True)
        if process.returncode:
            return Result(f"{text}\n[exit status {process.returncode}]".lstrip("\n"), failed=True)
        return Result(text)

    async def _finish(self, process: asyncio.subprocess.Process, output: Output) -> str:
        assert process.stdout
        while chunk := await process.stdout.read(64 * 1024):
            output.content += chunk
            if len(output.content) > self._settings.output_bytes:
                return f"it wrote more than {self._settings.output_bytes} bytes"
        await process.wait()
        return ""

    async def _watch(self, pid: int) -> str:
        while True:
            await asyncio.sleep(WATCH_S)
            used = await asyncio.to_thread(usage, pid, confine.WRITABLE)
            if used.memory_bytes > self._bounds.memory_bytes:
                return f"it used more than {self._settings.memory_mib} MiB of memory"
            if used.processes > self._bounds.processes + OWN:
                return f"it started more than {self._bounds.processes} processes"
            if used.files > MOST_FILES:
                return f"it made more than {MOST_FILES} files"


async def sandbox_tools(settings: SandboxSettings, state: Path) -> list[Tool]:
    """`python` and `shell`. Raises `ValueError`, with what to do, where there can be no sandbox."""
    sandbox = Sandbox(settings, state)
    await sandbox.check()
    limits = (
        "There is no network. Files can be written in /tmp and are gone after the call. At most "
        f"{settings.timeout_s:g} s, {settings.memory_mib} MiB of memory, {settings.output_bytes} bytes of output."
    )

    async def python(invocation: Invocation) -> Result:
        return await sandbox.python(invocation.arguments["code"])

    async def shell(invocation: Invocation) -> Result:
        return await sandbox.shell(invocation.arguments["command"])

    # Nothing is left of a call, so it may be repeated.
    patience = settings.timeout_s + QUEUE_S + 5
    return [
        Tool(
            "python",
            f"Run a Python program and return what it prints. {limits}",
            _schema("code", "The program; print what you want to know."),
            python,
            "builtin",
            idempotent=True,
            timeout_s=patience,
        ),
        Tool(
            "shell",
            f"Run a shell script and return its output. {limits}",
            _schema("command", "The script."),
            shell,
            "builtin",
            idempotent=True,
            timeout_s=patience,
        ),
    ]


def _schema(name: str, description: str) -> dict[str, Any]:
    argument = {"type": "string", "minLength": 1, "maxLength": LONGEST, "description": description}
    return {"type": "object", "properties": {name: argument}, "required": [name], "additionalProperties": False}


async def _end(process: asyncio.subprocess.Process) -> None:
    """The first process inside takes all others with it. While it is being made it may not notice that bubblewrap has
    been killed: so it goes first, and with bubblewrap what is of its group still."""
    assert process.stdout
    with suppress(ProcessLookupError):
        for each in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(END_S):
        while await process.stdout.read(64 * 1024):  # asyncio tells the end of a process only once its pipes are empty
            pass
        await process.wait()


@contextmanager
def _open(content: bytes) -> Iterator[int]:
    """A file in memory that a child can read from the start."""
    file = os.memfd_create("trivium")
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)
