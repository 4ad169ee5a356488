from __future__ import annotations

from pathlib import Path

import pytest

from cluster import network
from cluster.environment import environment
from cluster.settings import Settings


def test_an_address_is_taken_as_it_is() -> None:
    assert network.address("10.0.0.5") == "10.0.0.5"


def test_in_a_network_a_machine_finds_its_own_address() -> None:
    assert network.address("127.0.0.0/8") == "127.0.0.1"
    assert Settings(state=Path("/state"), node_ip="127.0.0.0/8").alone


def test_a_network_that_this_machine_is_not_in_is_named_with_what_it_has() -> None:
    with pytest.raises(ValueError, match=r"no address in 198\.51\.100\.0/24; its addresses are .*127\.0\.0\.1"):
        network.address("198.51.100.0/24")


def test_a_variable_that_is_no_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_NODE_IP", "the-rack")
    with pytest.raises(ValueError, match=r"TRIVIUM_(?i:node_ip): .*the-rack is neither an address nor a network"):
        Settings.from_environment()


def test_torch_and_vllm_connect_over_the_interface_of_the_address(state: Path) -> None:
    found = environment(Settings(state=state))
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == "lo"
    assert found["VLLM_HOST_IP"] == "127.0.0.1"
    assert environment(Settings(state=state, node_ip="198.51.100.7"))["VLLM_HOST_IP"] == "198.51.100.7"


def test_several_machines_cannot_listen_on_one_address(state: Path) -> None:
    from cluster.runtime import Options, up

    with pytest.raises(ValueError, match="leave out --listen"):
        up(Settings(state=state, node_ip="198.51.100.7"), Options(listen="198.51.100.7"), print)
