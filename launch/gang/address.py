"""The address of a Ray cluster, as far as it can be checked without Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass

from engine.errors import InvalidInput

AUTO = "auto"
_LOCAL = "local"
USUAL_PORT = 6379
_GIVE = (
    f"give HOST:PORT as `ray start --head` printed it (its port is {USUAL_PORT} unless --port said otherwise), or auto"
)


@dataclass(frozen=True)
class Address:
    """The host and the port of a cluster's head."""

    host: str
    """A name or an address, without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Of HOST:PORT, which :func:`check_address` has checked."""
        host, _, port = text.rpartition(":")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_address(given: str | None) -> str | None:
    """The address that was given, else that in $RAY_ADDRESS: HOST:PORT or auto. None if a Ray is to be started.

    Raises:
        InvalidInput: it is of another kind, or has no port.
    """
    name, address = "--ray-address", (given or "").strip()
    if not address:
        name, address = "$RAY_ADDRESS", os.environ.get("RAY_ADDRESS", "").strip()
    if not address or address == _LOCAL:
        return None
    if address == AUTO:
        return AUTO
    if address.startswith("ray://"):
        raise InvalidInput(
            f"{name} {address} is for Ray's client, which cannot start a gang: run on a machine of the cluster, and "
            f"{_GIVE}."
        )
    if "://" in address:
        raise InvalidInput(f"{name} {address} is a URL, perhaps of Ray's dashboard or of its jobs: {_GIVE}.")
    host, colon, port = address.rpartition(":")
    if not colon or (":" in address and address.endswith("]")):
        raise InvalidInput(f"{name} {address} has no port: {_GIVE}.")
    if not host.strip("[]") or any(letter.isspace() or letter in "/@,;" for letter in host):
        raise InvalidInput(f"{name} {address} names no host: {_GIVE}.")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise InvalidInput(f"{name} {address} has the port {port!r}, which is no number from 1 to 65535: {_GIVE}.")
    return str(Address.parse(address))
