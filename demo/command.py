"""The command line, used as a user would: `trivium ...` in a process of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from threading import Thread
from typing import IO, Any


def trivium(*arguments: str, seen: Callable[[str], None] = lambda line: None) -> str:
    """Run `trivium ARGUMENTS`, hand every line to `seen` as it comes, return what was written to stdout.

    Raises `ValueError` with the command's own last words when it fails.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "trivium", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output: list[str] = []
    complaints: list[str] = []

    def listen(pipe: IO[str] | None, lines: list[str]) -> None:
        for line in pipe or ():
            lines.append(line)
            seen(line.rstrip())

    # Both pipes are read at once: a command that fills the one while we wait on the other would hang.
    listener = Thread(target=listen, args=(process.stderr, complaints), daemon=True)
    listener.start()
    listen(process.stdout, output)
    process.wait()
    listener.join()
    if process.returncode:
        words = next((line.strip() for line in reversed(complaints or output) if line.strip()), "it said nothing")
        raise ValueError(f"`trivium {shlex.join(arguments)}` failed: {words.removeprefix('Error: ')}")
    return "".join(output)


def answer(*arguments: str) -> Any:
    """Run a command that answers in JSON."""
    return json.loads(trivium(*arguments))


def address() -> tuple[str, str]:
    """`base_url` and API key of the cluster, as `eval "$(trivium env)"` would set them."""
    exported = dict(word.split("=", 1) for word in shlex.split(trivium("env")) if "=" in word)
    return exported["OPENAI_BASE_URL"], exported["OPENAI_API_KEY"]
