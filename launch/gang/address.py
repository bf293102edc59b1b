"""The address of a Ray cluster, as far as it can be checked without Ray."""

from __future__ import annotations

import os
import socket

from engine.errors import InvalidInput

_CONNECT_SECONDS = 10.0


def check_address(given: str | None) -> str | None:
    """The address that was given, else that in $RAY_ADDRESS, if any.

    Raises:
        InvalidInput: it is for Ray's client, which cannot start a gang.
    """
    address = given or os.environ.get("RAY_ADDRESS") or None
    if address and address.startswith("ray://"):
        raise InvalidInput(
            f"--ray-address {address} is for Ray's client: run on a machine of the cluster, and give HOST:PORT or auto."
        )
    return address


def check_listening(address: str) -> None:
    """Check that something listens at the address: Ray itself would retry for minutes.

    Args:
        address: HOST:PORT; any other form is looked up by Ray on this machine, and not checked.

    Raises:
        InvalidInput: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(f"There is no Ray cluster at {address} ({reason}): check --ray-address.") from None
