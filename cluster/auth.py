"""API keys: who may call, what, and how much. Stored hashed, shown once; the first one is made by the first `up`.

A key is `sk-trivium-ID-SECRET`. The id (8 hex digits) is public: it finds the entry, and names the key in a list. The
secret has 256 random bits, so one SHA-256 is a sufficient hash: there is no dictionary to try.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from cluster import durable
from cluster.settings import Strict

SCOPES = ("infer", "feedback", "agents", "admin")
FIRST = "owner"
"""Name of the first key."""
MOST_PRIORITY = 100
"""Priorities reach from -100 (served first) to 100; beyond that are the cluster's own replays."""

_KEY = re.compile(r"sk-trivium-([0-9a-f]{8})-[\w-]{43}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NOBODY = "0" * 64
"""What the digest of a key with an unknown id is compared with, so that it takes as long as a wrong secret."""


class Limits(Strict):
    """How much a key may do. None: as much as the cluster can."""

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    """Prompt and completion together."""
    concurrent: int | None = Field(None, ge=1)
    """Requests that are answered at once."""


_UNLIMITED = Limits()  # type: ignore[call-arg]


@dataclass(frozen=True)
class Principal:
    """Who a key speaks for."""

    id: str
    scopes: tuple[str, ...] = SCOPES
    key: str = ""
    """Id of the key; what is counted is counted under it."""
    limits: Limits = _UNLIMITED
    priority: int = 0
    """The engine serves lower numbers first."""

    @cached_property
    def limited(self) -> bool:
        return self.limits != _UNLIMITED


class Entry(Strict):
    """What is stored of a key."""

    id: str
    name: str
    """The principal's id in records."""
    digest: str = Field(repr=False)
    """SHA-256 of the whole key, in hex."""
    scopes: tuple[str, ...]
    limits: Limits = _UNLIMITED
    priority: int = Field(0, ge=-MOST_PRIORITY, le=MOST_PRIORITY)
    created: float
    """Unix seconds."""

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.scopes, self.id, self.limits, self.priority)


class Keys:
    """The keys of one state folder. Replicas read them once more when the file changes."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "secrets"
        self._path = self._folder / "keys.json"
        self._stamp: tuple[int, ...] = ()
        self._entries: dict[str, Entry] = {}
        self._principals: dict[str, Principal] = {}
        self._by_name: dict[str, Principal] = {}

    def authenticate(self, authorization: str | None) -> Principal | None:
        """The principal of an `Authorization: Bearer KEY` header, or None."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        self._refresh()
        digest = _digest(key.strip())
        identity = _identity(key.strip(), digest)
        entry = self._entries.get(identity)
        if hmac.compare_digest(digest, entry.digest if entry else _NOBODY) and entry:
            return self._principals[identity]
        return None

    def named(self, name: str) -> Principal | None:
        """The principal of that name, while its key is valid."""
        self._refresh()
        return self._by_name.get(name)

    def entries(self) -> list[Entry]:
        """Every key that is valid, oldest first."""
        self._refresh()
        return sorted(self._entries.values(), key=lambda entry: entry.created)

    def create(
        self, name: str, scopes: tuple[str, ...] = SCOPES, limits: Limits = _UNLIMITED, priority: int = 0
    ) -> str:
        """Store a new key's hash and return the key: the only time that it is shown."""
        if unknown := set(scopes) - set(SCOPES):
            raise ValueError(f"no scope is called {', '.join(sorted(unknown))}; choose from {', '.join(SCOPES)}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a key; use letters, digits, and . _ @ - after the first")
        if name == FIRST:
            raise ValueError(f"{FIRST} is the key that `trivium up` makes; choose another name")
        with _lock(self._folder):
            if any(entry.name == name for entry in self.entries()):
                raise ValueError(f"there is a key called {name} already; revoke it first, or choose another name")
            return self._add(name, scopes, limits, priority)

    def revoke(self, name_or_id: str) -> Entry:
        """Forget a key. Every replica refuses it from its next request on."""
        with _lock(self._folder):
            found = [entry for entry in self.entries() if name_or_id in (entry.name, entry.id)]
            if not found:
                known = ", ".join(entry.name for entry in self.entries()) or "none"
                raise ValueError(f"there is no key called {name_or_id}; there are: {known}")
            gone = next((entry for entry in found if entry.name == name_or_id), found[0])
            self._write([entry for entry in self.entries() if entry.id != gone.id])
            first = self._folder / "api_key"
            if first.exists() and _digest(first.read_text().strip()) == gone.digest:
                first.unlink()  # whoever needs it next makes a new one: this is how the first key is changed
            return gone

    def first(self) -> str:
        """The key in the file `api_key`, which the first who asks for it makes."""
        path = self._folder / "api_key"
        if not path.exists():
            with _lock(self._folder):
                if not path.exists():
                    # An `owner` without the file is what a crash between the two writes left: nobody has its secret.
                    self._write([entry for entry in self.entries() if entry.name != FIRST])
                    durable.create(path, self._add(FIRST, SCOPES, _UNLIMITED, 0).encode(), mode=0o600)
        return path.read_text().strip()

    def _add(self, name: str, scopes: tuple[str, ...], limits: Limits, priority: int) -> str:
        taken = {entry.id for entry in self.entries()}
        identity = next(i for i in iter(lambda: secrets.token_hex(4), None) if i not in taken)
        key = f"sk-trivium-{identity}-{secrets.token_urlsafe(32)}"
        entry = Entry(
            id=identity,
            name=name,
            digest=_digest(key),
            scopes=scopes,
            limits=limits,
            priority=priority,
            created=time.time(),
        )
        self._write([*self.entries(), entry])
        return key

    def _write(self, entries: list[Entry]) -> None:
        content = {"keys": [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]}
        write_private(self._path, json.dumps(content, indent=1).encode())

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        # The inode too: time stamps advance by clock ticks (4 ms), and two changes can share one.
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._entries = {entry.id: entry for entry in _parse(json.loads(self._path.read_text()), status.st_mtime)}
            self._principals = {entry.id: entry.principal for entry in self._entries.values()}
            self._by_name = {who.id: who for who in self._principals.values()}
            self._stamp = stamp


def first_key(state: Path) -> str:
    """The key that the first `up` made; makes it if there is none. Kept readable for this user only."""
    return Keys(state).first()


def mint_key(state: Path) -> bytes:
    """The secret behind request ids (`cluster.ids`)."""
    return bytes.fromhex(_once(state / "secrets" / "mint_key", lambda: secrets.token_hex(32)))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically and durably with one that only this user can read."""
    durable.make_folder(path.parent, mode=0o700)
    durable.replace(path, content, mode=0o600)


def _once(path: Path, make: Callable[[], str]) -> str:
    """The file's text; `make` gives it if there is none. Of several processes that start together one wins and all
    return what it wrote: two replicas with different mint keys would disown each other's request ids."""
    if not path.exists():
        durable.make_folder(path.parent, mode=0o700)
        with suppress(FileExistsError):
            durable.create(path, make().encode(), mode=0o600)
    return path.read_text().strip()


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time reads and replaces the keys; the kernel lets go of the lock of a process that dies."""
    durable.make_folder(folder, mode=0o700)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parse(content: dict[str, Any], written: float) -> list[Entry]:
    if "keys" in content:
        return [Entry.model_validate(entry) for entry in content["keys"]]
    # As it was before keys had ids: {digest: {"id": name, "scopes"}}. Their digest stands in for the id.
    return [
        Entry(id=digest[:8], name=who["id"], digest=digest, scopes=tuple(who["scopes"]), priority=0, created=written)
        for digest, who in content.items()
    ]


def _identity(key: str, digest: str) -> str:
    match = _KEY.fullmatch(key)
    return match[1] if match else digest[:8]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
