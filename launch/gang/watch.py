"""Whether the Ray that a run uses is still there: its head, and the node on this machine.

Ray's client says nothing for a minute when the head is gone, and then ends the process from C++. Its calls block
meanwhile.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
import ray

from launch.gang.address import Address
from launch.gang.head import HeadConnection
from launch.gang.token import Token
from launch.process.bounded import within

_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_LOOKS_BETWEEN_NODES = 5
_TRIES = 2  # a single refusal may be that of a busy system
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)

Result = TypeVar("Result")


class RayLost(Exception):
    """The cluster is gone, or this process's node of it; one sentence."""


class RayWatch:
    """Looks at Ray once a second, in a thread of its own. To be ended with :meth:`stop`."""

    def __init__(
        self, head: Address, raylet: Address, node_id: str, token: Token | None, own: bool, timeout_seconds: float
    ) -> None:
        """
        Args:
            head: of the cluster. raylet: of this machine's node.
            node_id: of this machine's node, in hexadecimal.
            own: it was started for this run, so nobody will start it again.
            timeout_seconds: how long a head may be silent; one with fault tolerance may be started again meanwhile.
        """
        self._head, self._raylet = head, raylet
        self._node_id = bytes.fromhex(node_id)
        self._own = own
        self._timeout_seconds = timeout_seconds
        self._connection = HeadConnection(head, token)
        self._cluster_id: bytes | None = None
        self._lost: str | None = None
        self._heard_at = time.monotonic()
        self._refused = self._looks = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="ray watch", daemon=True)

    @classmethod
    def begin(cls, token: Token | None, own: bool, timeout_seconds: float) -> RayWatch:
        """Begin to watch the Ray that is connected."""
        context = ray.get_runtime_context()
        (node,) = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
        raylet = Address(node["NodeManagerAddress"], node["NodeManagerPort"])
        watch = cls(Address.parse(context.gcs_address), raylet, node["NodeID"], token, own, timeout_seconds)
        watch._thread.start()
        return watch

    @property
    def is_lost(self) -> bool:
        return self._lost is not None

    def check(self) -> None:
        """
        Raises:
            RayLost: Ray is gone.
        """
        if self._lost:
            raise RayLost(self._lost)

    def check_now(self) -> None:
        """The same, with another look at the node: a rank may have died with it a moment ago.

        Raises:
            RayLost: Ray is gone.
        """
        for _ in range(_TRIES):
            if _listens(self._raylet):
                break
            self._look()
        self.check()

    def call(self, call: Callable[[], Result]) -> Result:
        """The result of one of Ray's calls that asks the head, which may hang where the head does.

        Raises:
            RayLost: Ray is gone.
        """
        self.check()
        try:
            return within(self._timeout_seconds + _ANSWER_SECONDS, call, self.check)
        except TimeoutError:
            raise RayLost(self._of_head(f"has not answered for {self._timeout_seconds:g} s")) from None

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(_ANSWER_SECONDS + _LOOK_SECONDS)
        self._connection.__exit__(None, None, None)

    def _look_again(self) -> None:
        while not self._lost and not self._ended.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        if not _listens(self._raylet):
            self._refused += 1
            if self._refused >= _TRIES:
                self._lose(self._of_node())
            return
        self._refused = 0
        self._ask_head()

    def _ask_head(self) -> None:
        silent = time.monotonic() - self._heard_at
        try:
            cluster_id = self._connection.cluster_id(_ANSWER_SECONDS)
            self._looks += 1
            if self._looks % _LOOKS_BETWEEN_NODES == 0:
                self._check_node()
        except grpc.RpcError as error:
            if error.code() in _REFUSALS:
                self._lose(self._of_head("is another one than before"))
            elif self._own and not _listens(self._head) and not _listens(self._head):
                self._lose("The Ray that was started for this run has died: its head does not listen any more.")
            elif silent > self._timeout_seconds:
                self._lose(self._of_head(f"has not answered for {silent:.0f} s"))
            return
        except ValueError:  # the channel was closed: the watch ends
            return
        self._heard_at = time.monotonic()
        if self._cluster_id not in (None, cluster_id):
            self._lose(self._of_head("was started anew, and does not know this run"))
        self._cluster_id = cluster_id

    def _check_node(self) -> None:
        """A node that is frozen still takes connections, until the head gives it up."""
        if all(node.node_id != self._node_id for node in self._connection.living_nodes(_ANSWER_SECONDS)):
            self._lose(
                "The cluster's head has given up the Ray node on this machine: it has not answered for too long."
            )

    def _of_node(self) -> str:
        if self._own:
            return f"The Ray that was started for this run has died: nothing listens at {self._raylet} any more."
        return (
            f"The Ray node on this machine has ended: nothing listens at {self._raylet} any more. Start it again with "
            f"`ray start --address={self._head}`."
        )

    def _of_head(self, what: str) -> str:
        return f"The head of the Ray cluster at {self._head} {what}: all ranks are ended."

    def _lose(self, sentence: str) -> None:
        self._lost = self._lost or sentence


def _listens(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), _ANSWER_SECONDS).close()
    except TimeoutError:
        return True  # it is busy or frozen, which the head will notice
    except OSError:
        return False
    return True
