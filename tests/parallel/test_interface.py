"""The interface that gloo is told to use, on a machine whose interfaces are not known beforehand."""

import socket

import psutil
import pytest

from parallel.interface import choose_interface

ALONE = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
SPREAD = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}


def chosen(environment: dict[str, str]) -> str | None:
    choose_interface(environment)
    return environment.get("GLOO_SOCKET_IFNAME")


def own_addresses() -> list[tuple[str, str]]:
    """(interface, IPv4 address) of this machine."""
    found = psutil.net_if_addrs().items()
    return [(name, entry.address) for name, entries in found for entry in entries if entry.family == socket.AF_INET]


@pytest.mark.parametrize(("name", "address"), own_addresses())
def test_it_is_the_one_that_has_the_address(name: str, address: str) -> None:
    assert chosen({"MASTER_ADDR": address, **ALONE}) == name
    assert chosen({"MASTER_ADDR": address, **SPREAD}) == (None if address.startswith("127.") else name)


def test_a_choice_stays() -> None:
    assert chosen({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "mine", **ALONE}) == "mine"


@pytest.mark.parametrize("environment", [{}, {"MASTER_ADDR": "no-such-host.invalid", **ALONE}])
def test_what_is_not_known_is_left_to_gloo(environment: dict[str, str]) -> None:
    assert chosen(environment) is None
