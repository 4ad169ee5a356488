"""Request ids that carry a keyed tag: whether this cluster ever minted one is arithmetic, not a look-up."""

from __future__ import annotations

import hashlib
import hmac
import secrets


def mint(key: bytes) -> str:
    """A new request id: `req-`, 96 random bits, and 64 bits of HMAC-SHA256 over them, in hex."""
    body = secrets.token_hex(12)
    return f"req-{body}{_tag(key, body)}"


def minted(key: bytes, request_id: str) -> bool:
    """Whether `mint(key)` made this id."""
    if len(request_id) != 44 or not request_id.isascii() or not request_id.startswith("req-"):
        return False  # ASCII first: JSON can hold lone surrogates, which no encoding takes
    body, tag = request_id[4:28], request_id[28:]
    return hmac.compare_digest(tag, _tag(key, body))


def _tag(key: bytes, body: str) -> str:
    return hmac.new(key, body.encode(), hashlib.sha256).hexdigest()[:16]
