"""The address of a Ray cluster, as far as it can be checked without Ray."""

from __future__ import annotations

import os

from engine.errors import InvalidInput


def check_address(given: str | None) -> str | None:
    """The address that was given, else $RAY_ADDRESS, if any.

    Raises:
        InvalidInput: it is of a kind that does not serve.
    """
    address = given or os.environ.get("RAY_ADDRESS") or None
    if address and address.startswith("ray://"):
        raise InvalidInput(
            f"--ray-address {address} is for Ray's client: run on a machine of the cluster, and give HOST:PORT or auto."
        )
    return address
