from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import ports
from cluster.settings import Settings


@contextmanager
def listening(address: str = "127.0.0.1", share: bool = False) -> Iterator[int]:
    """A program that listens, below the ports that the operating system would pick."""
    with socket.socket() as server:
        if share:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((address, next(port for port in range(21000, 22000) if not ports.busy(port))))
        server.listen()
        yield server.getsockname()[1]


def test_defaults_are_the_ports_that_ray_and_serve_users_know() -> None:
    fixed = ports.fixed(Settings(state=Path("/state")))
    known = {"gateway": 8000, "serve-fallback": 8500, "haproxy-statistics": 8404, "haproxy-metrics": 9101}
    assert fixed.items() >= {**known, "dashboard": 8265, "gcs": 6379}.items()
    assert ports.replicas(Settings(state=Path("/state"))) == range(30000, 31000)


def test_no_two_parts_share_a_port() -> None:
    settings = Settings(state=Path("/state"))
    numbers = list(ports.fixed(settings).values())
    assert len(set(numbers)) == len(numbers)
    assert not set(numbers) & (set(ports.WORKERS) | set(ports.replicas(settings)))


@pytest.mark.parametrize("port", [80, 42001, 65535])
def test_http_port_that_leaves_no_room_beside_it_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"TRIVIUM_HTTP_PORT is {port}; choose 1024 to 42000"):
        ports.fixed(Settings(state=Path("/state"), http_port=port))


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_port_is_busy_while_a_program_listens_on_it(address: str) -> None:
    with listening(address) as port:
        assert ports.busy(port)
    assert not ports.busy(port)


def test_port_of_a_program_that_would_share_it_is_busy_too() -> None:
    with listening(share=True) as port:
        assert ports.busy(port)


@pytest.mark.parametrize(
    ("setting", "what"), [("http_port", "gateway"), ("dashboard_port", "dashboard"), ("gcs_port", "gcs")]
)
def test_busy_port_is_named_with_the_variable_that_moves_it(setting: str, what: str, state: Path) -> None:
    with listening() as taken:
        free = {"http_port": 23001, "dashboard_port": 23002, "gcs_port": 23003}
        settings = Settings(state=state, **{**free, setting: taken})
        with pytest.raises(ValueError, match=rf"port {taken} \({what}\) is taken .* TRIVIUM_{setting.upper()}"):
            ports.check_free(settings)
