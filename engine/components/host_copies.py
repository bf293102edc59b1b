"""Host copies of weights: made once, in pinned memory, from which a device gets its copy while they are used.

Weights never change once they are loaded, so nothing is copied back: the device's copy is dropped.
"""

import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.components.weight_rows import WeightRow


class Mover(Protocol):
    """Copies from the host's memory to a device, beside what the device computes.

    A mark is a moment in the order of what was launched; what it is depends on the device.
    """

    device: torch.device

    def pin(self, host: Tensor, owner: object) -> None:
        """Let copies from this memory run beside the computation, as long as ``owner`` exists."""
        ...

    def copy(self, target: Tensor, source: Tensor, after: Any = None) -> Any:
        """Start a copy, and return the mark of its end.

        Args:
            target: on the device, allocated on the stream that computes.
            after: the mark at which the target is free; the end of all that was launched so far if it is None.
        """
        ...

    def await_copy(self, copied: Any) -> None:
        """What is launched from now on begins after that mark; the host does not wait."""
        ...

    def mark(self) -> Any:
        """The end of what was launched so far."""
        ...


class CudaMover:
    """A :class:`Mover` with a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def pin(self, host: Tensor, owner: object) -> None:
        """As :meth:`Mover.pin`. Registered in place, since torch's own pinned memory comes in powers of two. Where the
        driver refuses, copies still run, and the host waits for them."""
        driver = torch.cuda.cudart()
        if int(driver.cudaHostRegister(host.data_ptr(), host.nbytes, 0)) == 0:
            # at the end of the process the driver may be gone before
            weakref.finalize(owner, driver.cudaHostUnregister, host.data_ptr()).atexit = False

    def copy(self, target: Tensor, source: Tensor, after: Any = None) -> Any:
        """As :meth:`Mover.copy`."""
        self._stream.wait_event(after if after is not None else self.mark())
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        return self._stream.record_event()

    def await_copy(self, copied: Any) -> None:
        """As :meth:`Mover.await_copy`."""
        torch.cuda.current_stream(self.device).wait_event(copied)

    def mark(self) -> Any:
        """As :meth:`Mover.mark`."""
        return torch.cuda.current_stream(self.device).record_event()


def mover_for(device: torch.device) -> Mover | None:
    """What copies to that device; None for the CPU, whose weights are where they are used."""
    return CudaMover(device) if device.type == "cuda" else None


class Piece:
    """Weights that come to the device and leave it together, in one copy: their host copies lie in one row of bytes."""

    def __init__(self, modules: Iterable[nn.Module], mover: Mover, host: Tensor | None = None) -> None:
        """Moves the weights into the row, one after the other, so that the host never holds them twice.

        Args:
            modules: whose own parameters and buffers are meant, not those of their children. Tied ones are kept once.
            host: the row in which their weights lie already.
        """
        self._mover = mover
        self._weights = WeightRow(modules)
        self.nbytes = self._weights.nbytes
        self._copied: Any = None  # mark of a copy that was not waited for
        self._held: Tensor | None = None
        self._host = torch.empty(self.nbytes, dtype=torch.uint8) if host is None else host[: self.nbytes]
        self._weights.point_to(self._host, fill=host is None)
        mover.pin(self._host, self)

    @property
    def is_here(self) -> bool:
        """Whether the device has a copy, or one is on its way."""
        return self._held is not None

    def bring(self, buffer: Tensor | None = None, after: Any = None) -> None:
        """Start the copy to the device, if it has none.

        Args:
            buffer: uint8 on the device, at least as long as the piece; new memory if it is None.
            after: the mark at which the buffer is free.
        """
        if self._held is not None:
            return
        with torch.inference_mode(False):  # parameters made outside of it take no tensor that is made inside
            if buffer is None:
                buffer = torch.empty(self.nbytes, dtype=torch.uint8, device=self._mover.device)
            self._copied = self._mover.copy(buffer[: self.nbytes], self._host, after)
        self._held = buffer
        self._weights.point_to(buffer)

    def ready(self) -> None:
        """What is launched from now on may use the weights."""
        if self._copied is not None:
            self._mover.await_copy(self._copied)
            self._copied = None

    def drop(self) -> None:
        """Forget the device's copy; nothing is copied."""
        if self._held is None:
            return
        self.ready()  # the memory must not be given away while it is written to
        self._held = None
        self._weights.point_to(self._host)
