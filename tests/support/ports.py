"""Servers at ports of this machine that are not Ray's head, or pretend to be."""

import json
import platform
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import ray
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc


@contextmanager
def server(banner: bytes = b"", answer: bytes | None = None) -> Iterator[int]:
    """The port of a server that says ``banner`` at once, and ``answer`` when it has heard something; then it closes the
    connection, unless the answer is None: then it is silent."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(banner)
                if answer is None:
                    ended.wait()
                else:
                    connection.recv(4096)
                    connection.sendall(answer)
            except OSError:
                pass

    def accept(listening: socket.socket) -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=(listening,), daemon=True).start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)


@dataclass
class FakeHead:
    """What a cluster's head says of itself."""

    token: str = ""
    """That it wants; none if empty."""
    ray_version: str = ray.__version__
    python_version: str = platform.python_version()
    cluster_id: bytes = b"c" * 28
    node_id: bytes = b"n" * 28
    socket_name: str = str(Path(__file__))
    """Of the raylet of its node; any file on this machine."""
    is_alive: bool = True
    port: int = field(default=0, init=False)

    def check(self, context: Any) -> None:
        if self.token and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")


class _Nodes(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    def __init__(self, head: FakeHead) -> None:
        self._head = head

    def GetClusterId(self, request: Any, context: Any) -> Any:
        self._head.check(context)
        return gcs_service_pb2.GetClusterIdReply(cluster_id=self._head.cluster_id)

    def GetAllNodeInfo(self, request: Any, context: Any) -> Any:
        self._head.check(context)
        node = gcs_pb2.GcsNodeInfo(
            node_id=self._head.node_id,
            node_manager_address="10.9.8.7",
            raylet_socket_name=self._head.socket_name,
            state=gcs_pb2.GcsNodeInfo.ALIVE if self._head.is_alive else gcs_pb2.GcsNodeInfo.DEAD,
        )
        return gcs_service_pb2.GetAllNodeInfoReply(node_info_list=[node])


class _Values(gcs_service_pb2_grpc.InternalKVGcsServiceServicer):
    def __init__(self, head: FakeHead) -> None:
        self._head = head

    def InternalKVGet(self, request: Any, context: Any) -> Any:
        self._head.check(context)
        assert (request.key, request.namespace) == (b"CLUSTER_METADATA", b"cluster")
        said = {"ray_version": self._head.ray_version, "python_version": self._head.python_version}
        return gcs_service_pb2.InternalKVGetReply(value=json.dumps(said).encode())


@contextmanager
def fake_head(head: FakeHead, serves: bool = True) -> Iterator[FakeHead]:
    """A gRPC server that answers as the head does; without ``serves`` one that knows none of its methods."""
    running = grpc.server(ThreadPoolExecutor(4))
    if serves:
        gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(_Nodes(head), running)
        gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(_Values(head), running)
    head.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield head
    finally:
        running.stop(0).wait()
