"""API keys: who may call. Stored hashed; the first one is made by the first `up`.

A key is 256 random bits, so one SHA-256 is a sufficient hash: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

SCOPES = ("infer", "feedback", "admin")


@dataclass(frozen=True)
class Principal:
    """Who a key speaks for."""

    id: str
    scopes: tuple[str, ...] = SCOPES


class Keys:
    """The keys of one state folder. Replicas read them once more when the file's time stamp changes."""

    def __init__(self, state: Path) -> None:
        self._path = state / "secrets" / "keys.json"
        self._stamp = 0
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
        key = f"sk-trivium-{secrets.token_urlsafe(32)}"
        self._refresh()
        entries = {**self._by_digest, _digest(key): Principal(name, scopes)}
        write_private(self._path, json.dumps({digest: asdict(who) for digest, who in entries.items()}, indent=1).encode())
        return key

    def _refresh(self) -> None:
        try:
            stamp = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp != self._stamp:
            entries = json.loads(self._path.read_text())
            self._by_digest = {digest: Principal(who["id"], tuple(who["scopes"])) for digest, who in entries.items()}
            self._stamp = stamp


def first_key(state: Path) -> str:
    """The key that the first `up` made; makes it if there is none. Kept readable for this user only."""
    path = state / "secrets" / "api_key"
    if not path.exists():
        write_private(path, Keys(state).create("owner").encode())
    return path.read_text()


def mint_key(state: Path) -> bytes:
    """The secret behind request ids (`cluster.ids`)."""
    path = state / "secrets" / "mint_key"
    if not path.exists():
        write_private(path, secrets.token_hex(32).encode())
    return bytes.fromhex(path.read_text())


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically with one that only this user can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
