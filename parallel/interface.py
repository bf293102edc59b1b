"""Over which network interface the ranks of several machines reach one another."""

import ipaddress
import os
import socket
from collections.abc import MutableMapping

import psutil

_GLOO = "GLOO_SOCKET_IFNAME"


def choose_interface(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have gloo use the interface from which this machine reaches the ranks' meeting place, MASTER_ADDR.

    By itself gloo takes the address that this machine's own name has, and where that is not one of another machine's
    reach (an entry in /etc/hosts, a container) the ranks meet and then cannot connect. NCCL looks at the interfaces
    that there are, and needs no such help. A choice that the environment holds already stays.
    """
    if _GLOO in environment or "MASTER_ADDR" not in environment:
        return
    own = _own_address(environment["MASTER_ADDR"])
    ranks = environment.get("WORLD_SIZE")
    is_alone = environment.get("LOCAL_WORLD_SIZE", ranks) == ranks
    if own is None or (ipaddress.ip_address(own).is_loopback and not is_alone):
        return  # a name that is the loopback's here is another address on the other machines
    for name, addresses in psutil.net_if_addrs().items():
        if own in (address.address for address in addresses):
            environment[_GLOO] = name
            return


def _own_address(peer: str) -> str | None:
    """The address of this machine that talks to the peer, without a word to it; None if it is not known here."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(peer, 1, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as connection:
                connection.connect(address)
                return str(connection.getsockname()[0])
    except OSError:
        pass
    return None
