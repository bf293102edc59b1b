"""What the head of a Ray cluster says of itself, asked by gRPC within seconds.

Ray's own client retries for minutes, prints lines from C++ meanwhile, and says nothing of tokens.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import ray
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from engine.errors import InvalidInput
from launch.gang.address import USUAL_PORT, Address
from launch.gang.listener import check_listening, wrong_listener
from launch.gang.ray_private import tls_credentials
from launch.gang.token import Token, find_token, missing_token, refused_token

_HANDSHAKE_SECONDS = 2.0
_ANSWER_SECONDS = 10.0  # of a server that speaks gRPC, but is busy
_MATCH_LEVEL = "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"  # Ray's: patch by default, or minor
_UNAUTHENTICATED, _LATE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.DEADLINE_EXCEEDED


class HeadConnection:
    """A gRPC channel to the head of a cluster. A context manager."""

    def __init__(self, address: Address, token: Token | None = None) -> None:
        # Ray itself does not go through proxies either
        options = [("grpc.enable_http_proxy", 0)]
        credentials = tls_credentials()
        if credentials is None:
            self._channel = grpc.insecure_channel(str(address), options)
        else:
            self._channel = grpc.secure_channel(str(address), credentials, options)
        self.is_ready = False
        """Whether what listens there has spoken gRPC."""
        self._channel.subscribe(self._on_state)
        self._metadata = [("authorization", f"Bearer {token.text}")] if token else []
        self._nodes: Any = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(self._channel)
        self._values: Any = gcs_service_pb2_grpc.InternalKVGcsServiceStub(self._channel)

    def __enter__(self) -> HeadConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def _on_state(self, state: grpc.ChannelConnectivity) -> None:
        self.is_ready = self.is_ready or state is grpc.ChannelConnectivity.READY

    def cluster_id(self, seconds: float = _ANSWER_SECONDS) -> bytes:
        """It is another one after a head without fault tolerance was started again.

        Raises:
            grpc.RpcError: there was no answer, or a refusal.
        """
        request = gcs_service_pb2.GetClusterIdRequest()
        return bytes(self._nodes.GetClusterId(request, timeout=seconds, metadata=self._metadata).cluster_id)

    def versions(self) -> tuple[str, str]:
        """(Ray's, Python's) of the head; empty where it does not say.

        Raises:
            grpc.RpcError: there was no answer, or a refusal.
        """
        request = gcs_service_pb2.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
        reply = self._values.InternalKVGet(request, timeout=_ANSWER_SECONDS, metadata=self._metadata)
        try:
            said: Mapping[str, str] = json.loads(reply.value)
            return str(said.get("ray_version", "")), str(said.get("python_version", ""))
        except (ValueError, AttributeError):
            return "", ""

    def living_nodes(self, seconds: float = _ANSWER_SECONDS) -> Sequence[Any]:
        """GcsNodeInfo of each node that is up.

        Raises:
            grpc.RpcError: there was no answer, or a refusal.
        """
        request = gcs_service_pb2.GetAllNodeInfoRequest()
        reply = self._nodes.GetAllNodeInfo(request, timeout=seconds, metadata=self._metadata)
        return [node for node in reply.node_info_list if node.state == gcs_pb2.GcsNodeInfo.ALIVE]


@dataclass(frozen=True)
class Head:
    """The head of a cluster that this process can use."""

    address: Address
    cluster_id: bytes = field(repr=False)
    token: Token | None
    """The one that it takes; None if it wants none."""


def find_head(address: Address, environment: Mapping[str, str] = os.environ) -> Head:
    """The head at an address. Whatever listens at the port is known after five seconds.

    Raises:
        InvalidInput: there is none, or it takes none of our tokens, or it is of another version, or no node of the
            cluster is on this machine; one sentence that says what to give.
    """
    check_listening(address)
    token: Token | None = None
    try:
        with HeadConnection(address) as head:
            try:
                head.cluster_id(_HANDSHAKE_SECONDS)
            except grpc.RpcError as error:
                if error.code() is _UNAUTHENTICATED:
                    token = find_token(environment)
                    if token is None:
                        raise missing_token(address) from None
                elif error.code() is not _LATE:
                    raise
                elif not head.is_ready:
                    raise wrong_listener(address) from None
        with HeadConnection(address, token) as head:
            cluster_id = head.cluster_id()
            _check_versions(address, *head.versions())
            _check_nodes(address, head.living_nodes())
    except grpc.RpcError as error:
        if error.code() is _UNAUTHENTICATED and token is not None:
            raise refused_token(address, token) from None
        raise _unlike_a_head(address, error) from None
    return Head(address, cluster_id, token)


def _unlike_a_head(address: Address, error: grpc.RpcError) -> InvalidInput:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return InvalidInput(
            f"There is no head of a Ray cluster at {address} (another gRPC server answers there, such as that of Ray's "
            "client at port 10001): give the address that `ray start --head` printed, whose port is "
            f"{USUAL_PORT} unless --port said otherwise."
        )
    if error.code() is _LATE:
        return InvalidInput(
            f"The head of the Ray cluster at {address} has not answered within {_ANSWER_SECONDS:g} s: see whether it "
            "still works with `ray status`, or start it again."
        )
    return wrong_listener(address)


def _check_versions(address: Address, ray_version: str, python_version: str) -> None:
    own = platform.python_version()
    parts = 2 if os.environ.get(_MATCH_LEVEL, "patch") == "minor" else 3
    same_python = not python_version or python_version.split(".")[:parts] == own.split(".")[:parts]
    if ray_version in ("", ray.__version__) and same_python:
        return
    raise InvalidInput(
        f"The Ray cluster at {address} runs Ray {ray_version or '?'} on Python {python_version or '?'}, and here "
        f"it is Ray {ray.__version__} on Python {own}: install the same versions on all machines and start the "
        "cluster again."
    )


def _check_nodes(address: Address, nodes: Sequence[Any]) -> None:
    """A driver talks to the raylet of its own machine, through a socket in the file system."""
    if any(not node.raylet_socket_name or Path(node.raylet_socket_name).exists() for node in nodes):
        return
    if not nodes:
        raise InvalidInput(f"The Ray cluster at {address} has no node that is up: start it again with `ray start`.")
    names = ", ".join(dict.fromkeys(node.node_manager_address for node in nodes[:8]))
    raise InvalidInput(
        f"No node of the Ray cluster at {address} is on this machine: run on one of its machines ({names}), or add "
        f"this one with `ray start --address={address}`."
    )
