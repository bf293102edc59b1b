"""Which network interface the ranks of several machines use."""

import ipaddress
import os
import socket
from collections.abc import MutableMapping

import psutil

_GLOO = "GLOO_SOCKET_IFNAME"


def choose_interface(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let gloo use the interface from which this machine reaches MASTER_ADDR, by setting GLOO_SOCKET_IFNAME.

    By itself gloo takes the address to which this machine's own name resolves. Where other machines cannot reach that
    address (an entry in /etc/hosts, a container), the ranks find the store and then fail to connect. NCCL enumerates
    the interfaces and needs no such help. A value that the environment holds already is kept.

    Args:
        environment: read for MASTER_ADDR, WORLD_SIZE and LOCAL_WORLD_SIZE, and written.
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
    """The local address from which this machine reaches the peer; None if there is no route. Sends nothing."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(peer, 1, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as connection:
                connection.connect(address)
                return str(connection.getsockname()[0])
    except OSError:
        pass
    return None
