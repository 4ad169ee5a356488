"""Every port that a node listens on, fixed beforehand, so that busy ones are found and a firewall can name them.

Three of them are settings; the rest keep a fixed distance from these, so that two clusters on one machine differ in all
ports as soon as they differ in the three. With the defaults they are the numbers that Ray and Serve users know.
"""

from __future__ import annotations

import errno
import socket

from cluster.settings import Settings

WORKERS = range(10002, 20000)
"""Ray's workers, Ray's default; each takes the next free one."""
CLIENT = 10001
"""The server for Ray's client of a head that `ray start` started with Ray's own defaults."""


def fixed(settings: Settings) -> dict[str, int]:
    """Port by what listens there."""
    if not 1024 <= settings.http_port <= 42000:
        raise ValueError(
            f"TRIVIUM_HTTP_PORT is {settings.http_port}; choose 1024 to 42000, other ports are derived from it"
        )
    ray, http = settings.gcs_port, settings.http_port
    return {
        "gateway": http,
        "serve-fallback": http + 500,
        "haproxy-statistics": http + 404,
        "haproxy-metrics": http + 1101,
        "dashboard": settings.dashboard_port,
        "gcs": ray,
        "node-manager": ray + 1,
        "object-manager": ray + 2,
        "runtime-env-agent": ray + 3,
        "dashboard-agent-grpc": ray + 4,
        "dashboard-agent-http": ray + 5,
        "ray-metrics": ray + 6,
        "ray-client": ray + 7,
        "autoscaler-metrics": ray + 8,
        "dashboard-metrics": ray + 9,
    }


def replicas(settings: Settings) -> range:
    """HTTP ports of Serve's replicas, which HAProxy calls."""
    return range(settings.http_port + 22000, settings.http_port + 23000)


def check_free(settings: Settings) -> None:
    """Raise `ValueError` with the fix in it if another program has one of the ports."""
    for what, port in fixed(settings).items():
        if busy(port):
            variable = (
                "TRIVIUM_HTTP_PORT"
                if what in ("gateway", "serve-fallback", "haproxy-statistics", "haproxy-metrics")
                else "TRIVIUM_DASHBOARD_PORT"
                if what == "dashboard"
                else "TRIVIUM_GCS_PORT"
            )
            raise ValueError(
                f"port {port} ({what}) is taken by another program; end it (`ss -ltnp 'sport = :{port}'` names it) "
                f"or choose other ports with {variable}"
            )


def busy(port: int) -> bool:
    """Whether a program listens on the port, on whatever address. Without SO_REUSEPORT a bind sees those that share."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else connections in TIME_WAIT count as busy
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ValueError(f"port {port} cannot be used: {error.strerror}; choose another") from None
    return False
