"""Ray's private parts that Lockstep uses, in one place: a new version of Ray is checked here."""

from __future__ import annotations

import os
from typing import Any

import grpc
import ray
from ray._common.tls_utils import load_certs_from_env
from ray._private.services import canonicalize_bootstrap_address

MODE = "RAY_AUTH_MODE"


def free_resources_by_node() -> list[dict[str, float]]:
    """What is free on each living node now, by name of the resource.

    Ray's public ``ray.available_resources()`` adds the nodes up, but a bundle has to fit on one of them.
    """
    return list(ray._private.state.available_resources_per_node().values())


def set_token_mode(mode: str) -> None:
    """Have this process send a token, or none.

    Args:
        mode: "token" or "disabled".
    """
    os.environ[MODE] = mode
    read_environment_again()


def read_environment_again() -> None:
    """Have Ray read its settings and the token again, which it keeps from when it was imported."""
    raylet: Any = ray._raylet  # its stub lacks them
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def address_on_this_machine() -> str | None:
    """HOST:PORT of the Ray cluster that runs on this machine, as ``ray.init("auto")`` finds it."""
    try:
        return canonicalize_bootstrap_address("auto") or None
    except (ConnectionError, RuntimeError, ValueError):
        return None


def tls_credentials() -> grpc.ChannelCredentials | None:
    """Those that $RAY_TLS_SERVER_CERT, $RAY_TLS_SERVER_KEY and $RAY_TLS_CA_CERT name; None unless $RAY_USE_TLS is set.

    Raises:
        RuntimeError, OSError: they cannot be read.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    certificate, key, authority = load_certs_from_env()
    return grpc.ssl_channel_credentials(authority, key, certificate)
