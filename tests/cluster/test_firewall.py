from __future__ import annotations

from pathlib import Path

import pytest

from cluster import firewall
from cluster.settings import Settings

SETTINGS = Settings(state=Path("/state"))


def test_rules_leave_the_gateway_to_what_it_is_bound_to() -> None:
    text = firewall.rules(SETTINGS)
    assert "tcp dport 8000 accept" in text
    for port in ("6379", "8265", "8404", "9101", "8500", "10002-19999", "30000-30999"):
        assert port in text


def test_a_head_of_the_launcher_is_closed_too() -> None:
    assert "10001" in firewall.rules(SETTINGS)


def test_other_nodes_get_through() -> None:
    text = firewall.rules(SETTINGS, ["10.0.0.0/24", "fd00::/8"])
    assert "ip saddr 10.0.0.0/24 accept" in text
    assert "ip6 saddr fd00::/8 accept" in text
    assert text.index("saddr") < text.index("drop")


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match="the-office is no network"):
        firewall.rules(SETTINGS, ["the-office"])
