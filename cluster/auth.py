"""API keys: who may call. Stored hashed; the first one is made by the first `up`.

A key is 256 random bits, so one SHA-256 is a sufficient hash: there is no dictionary to try.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster import durable

SCOPES = ("infer", "feedback", "admin")


@dataclass(frozen=True)
class Principal:
    """Who a key speaks for."""

    id: str
    scopes: tuple[str, ...] = SCOPES


class Keys:
    """The keys of one state folder. Replicas read them once more when the file changes."""

    def __init__(self, state: Path) -> None:
        self._path = state / "secrets" / "keys.json"
        self._stamp: tuple[int, ...] = ()
        self._by_digest: dict[str, Principal] = {}

    def authenticate(self, authorization: str | None) -> Principal | None:
        """The principal of an `Authorization: Bearer KEY` header, or None."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        self._refresh()
        # A dictionary keyed by the digest leaks nothing of use by its timing: the caller cannot steer a SHA-256.
        return self._by_digest.get(_digest(key.strip()))

    def create(self, name: str, scopes: tuple[str, ...] = SCOPES) -> str:
        """Store a new key's hash and return the key: the only time that it is shown."""
        if unknown := set(scopes) - set(SCOPES):
            raise ValueError(f"no scope is called {', '.join(sorted(unknown))}; choose from {', '.join(SCOPES)}")
        key = f"sk-trivium-{secrets.token_urlsafe(32)}"
        with _lock(self._path.parent):
            self._refresh()
            entries = {**self._by_digest, _digest(key): Principal(name, scopes)}
            content = json.dumps({digest: asdict(who) for digest, who in entries.items()}, indent=1)
            write_private(self._path, content.encode())
        return key

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        # The inode too: time stamps advance by clock ticks (4 ms), and two changes can share one.
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            entries = json.loads(self._path.read_text())
            self._by_digest = {digest: Principal(who["id"], tuple(who["scopes"])) for digest, who in entries.items()}
            self._stamp = stamp


def first_key(state: Path) -> str:
    """The key that the first `up` made; makes it if there is none. Kept readable for this user only."""
    return _once(state / "secrets" / "api_key", lambda: Keys(state).create("owner"))


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


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
