"""Asking on behalf of a principal: agents think for whoever started them, without keeping anybody's key.

The header says who and when, with an HMAC by the mint key. The edge takes it from every request and believes it only
then; a key that is revoked meanwhile is refused as if it had been sent itself.
"""

from __future__ import annotations

import hashlib
import hmac

BEHALF = b"x-trivium-behalf"
VALID_S = 60.0


def sign(key: bytes, principal: str, now: float) -> bytes:
    """The header's value, good for a minute."""
    said = f"{principal} {now:.0f}".encode()
    return said + b" " + _tag(key, said)


def verified(key: bytes, value: bytes, now: float) -> str | None:
    """The principal that `sign` was given; None if it was not `sign`, or too long ago."""
    said, _, tag = value.rpartition(b" ")
    if not hmac.compare_digest(tag, _tag(key, said)):
        return None
    principal, _, when = said.decode().partition(" ")
    return principal if abs(now - float(when)) <= VALID_S else None


def _tag(key: bytes, said: bytes) -> bytes:
    return hmac.new(key, b"behalf:" + said, hashlib.sha256).hexdigest().encode()
