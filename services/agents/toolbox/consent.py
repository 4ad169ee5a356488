"""What an operator has consented to of an MCP server: its tools, word for word.

A tool's description is read by the model as if we had written it, so a server that changes one could give orders. Each
is therefore offered only while it is what somebody has looked at; `agents/consent/SERVER.json` under state keeps it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcp_types import Tool as Told

from cluster import durable
from cluster.records import Frozen

Words = dict[str, Any]
"""All that a server says of one tool, as it says it."""

_SERVER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Consent(Frozen):
    """What is consented to of one server."""

    schema_version: int = 1
    server: str
    time: float
    by: str
    tools: dict[str, Words] = {}
    """By the server's own name of the tool."""

    @property
    def digests(self) -> dict[str, str]:
        return {name: digest(words) for name, words in self.tools.items()}


@dataclass(frozen=True)
class Change:
    """A tool that is not as it was consented to."""

    tool: str
    kind: Literal["new", "changed", "gone"]
    diff: str
    """Unified, of its words."""


def words(tool: Told) -> Words:
    """What counts of a tool: everything that a model reads, and the hints by which we treat it."""
    return tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"icons", "meta", "execution"})


def digest(words: Words) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(json.dumps(words, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def changes(before: Consent | None, now: Mapping[str, Words]) -> list[Change]:
    """What an operator has to look at: how the server's tools differ from what was consented to."""
    known = before.tools if before else {}
    return [
        Change(name, _kind(name, known, now), "\n".join(_diff(name, known.get(name), now.get(name))))
        for name in sorted(known.keys() | now.keys())
        if known.get(name) != now.get(name)
    ]


def read(state: Path, server: str) -> Consent | None:
    try:
        return Consent.model_validate_json(path(state, server).read_bytes())
    except FileNotFoundError:
        return None


def record(state: Path, consent: Consent) -> None:
    """Keep a consent in place of the one before. Returns when it is on disk."""
    file = path(state, consent.server)
    durable.make_folder(file.parent)
    durable.replace(file, consent.model_dump_json(indent=1).encode())


def path(state: Path, server: str) -> Path:
    if not _SERVER.fullmatch(server):
        raise ValueError(f"{server!r} is no name for an MCP server; use up to 32 of a-z, 0-9, _ and -")
    return state / "agents" / "consent" / f"{server}.json"


def _kind(name: str, known: Mapping[str, Words], now: Mapping[str, Words]) -> Literal["new", "changed", "gone"]:
    return "new" if name not in known else "gone" if name not in now else "changed"


def _diff(name: str, before: Words | None, now: Words | None) -> Iterator[str]:
    old, new = (json.dumps(each, indent=1, sort_keys=True).splitlines() if each else [] for each in (before, now))
    return difflib.unified_diff(old, new, f"{name} as consented", f"{name} now", lineterm="")
