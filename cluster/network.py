"""Which of this machine's addresses and interfaces the other machines of the cluster see."""

from __future__ import annotations

import ipaddress
import socket

LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::")
"""Listens on all addresses of a machine."""


def address(given: str) -> str:
    """An address as it is; of a network such as 10.0.0.0/24, this machine's address in it.

    Raises `ValueError` if it is neither, or if this machine has no address there.
    """
    try:
        network = ipaddress.ip_network(given, strict=False)
    except ValueError:
        raise ValueError(
            f"{given} is neither an address nor a network; give one such as 10.0.0.5 or 10.0.0.0/24"
        ) from None
    if "/" not in given:
        return given
    found = [own for own in _interfaces() if ipaddress.ip_address(own) in network]
    if not found:
        raise ValueError(f"this machine has no address in {given}; its addresses are {', '.join(_interfaces())}")
    return found[0]


def interface(own: str) -> str | None:
    """Name of the interface with this address; None if it is not this machine's."""
    return _interfaces().get(own)


def _interfaces() -> dict[str, str]:
    """This machine's addresses and their interfaces."""
    import psutil  # here: every command reads its settings, and few ask for this

    return {
        each.address.partition("%")[0]: name
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    }
