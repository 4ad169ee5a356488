"""nftables rules for what Ray, Serve, HAProxy and the engines open on all addresses.

On one machine that is HAProxy's statistics and metrics, the ports by which Serve's replicas call each other (they want
the Ray token) and those of torch's rendezvous; the last two have numbers that the operating system picks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cluster import ports
from cluster.settings import Settings


def rules(settings: Settings, allow: Iterable[str] = ()) -> str:
    """A table of its own, so that it can be loaded again and removed without touching other rules.

    `allow` are the networks of the cluster's other nodes. The gateway's port is left out: what it is bound to closes
    it, `trivium up --listen` opens it. Connections that this machine opened itself go on: only new ones are dropped.
    """
    table = f"trivium_{settings.http_port}"
    fixed = sorted({port for what, port in ports.fixed(settings).items() if what != "gateway"} | {ports.CLIENT})
    ranges = [f"{span.start}-{span.stop - 1}" for span in (ports.WORKERS, ports.replicas(settings), _picked())]
    nodes = "".join(f"\t\t{_family(network)} saddr {network} accept\n" for network in allow)
    return (
        f"# load: trivium firewall | sudo nft -f -      remove: sudo nft delete table inet {table}\n"
        f"table inet {table} {{}}\n"
        f"delete table inet {table}\n"
        f"table inet {table} {{\n"
        "\tset ports {\n"
        "\t\ttype inet_service; flags interval; auto-merge\n"
        f"\t\telements = {{ {', '.join([*map(str, fixed), *ranges])} }}\n"
        "\t}\n"
        "\tchain input {\n"
        "\t\ttype filter hook input priority filter - 1; policy accept;\n"
        '\t\tiif "lo" accept\n'
        f"\t\ttcp dport {settings.http_port} accept\n"
        f"{nodes}"
        "\t\ttcp dport @ports ct state new drop\n"
        "\t}\n"
        "}\n"
    )


def _picked() -> range:
    """Ports that the operating system gives to whoever asks for any."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return range(32768, 61000)  # Linux' default
    return range(int(first), int(last) + 1)


def _family(network: str) -> str:
    try:
        return "ip6" if ipaddress.ip_network(network, strict=False).version == 6 else "ip"
    except ValueError:
        raise ValueError(f"{network} is no network; give one such as 10.0.0.0/24") from None
