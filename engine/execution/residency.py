"""Where the weights of the transformers are: on the device, or in the host's memory, from which they come in time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from dicache.sums import StepSignal
from engine.components.host_copies import Mover, Piece
from engine.models.adapter import Adapter
from parallel.weights import list_blocks


class BlockWeights(Protocol):
    """The weights of one transformer that are not always on the device."""

    def bring(self) -> None:
        """Its turn begins."""
        ...

    def drop(self) -> None:
        """Its turn is over; the device's memory is free for another one."""
        ...

    def on_device(self, number: int) -> Any:
        """A context inside which block ``number`` may run."""
        ...


class WholeTurns:
    """``experts``: all weights come when the transformer's turn begins, and leave when it ends.

    They come block by block on a stream of their own, and a block waits for its own weights alone: the first step
    begins while most of them are on their way.
    """

    def __init__(self, transformer: nn.Module, mover: Mover, rows: Sequence[Tensor] = ()) -> None:
        """
        Args:
            rows: in which the weights of :func:`pieces_of` lie already.
        """
        pieces = pieces_of(transformer)
        self._outside, *self._blocks = (
            Piece(piece, mover, row) for piece, row in zip(pieces, rows or repeat(None), strict=False)
        )

    def bring(self) -> None:
        """As :meth:`BlockWeights.bring`."""
        for piece in (self._outside, *self._blocks):
            piece.bring()
        self._outside.ready()

    def drop(self) -> None:
        """As :meth:`BlockWeights.drop`."""
        for piece in (self._outside, *self._blocks):
            piece.drop()

    @contextmanager
    def on_device(self, number: int) -> Iterator[None]:
        """As :meth:`BlockWeights.on_device`."""
        self._blocks[number].ready()
        yield


class StreamedBlocks:
    """``blocks``: each block's weights come while the block before it runs, into one of two buffers.

    diffusers' group offloading does not serve here: it learns the order of blocks from the model's own forward pass,
    which the engine never calls, and a skipped step leaves that order.
    """

    def __init__(self, transformer: nn.Module, mover: Mover, rows: Sequence[Tensor] = ()) -> None:
        """
        Args:
            rows: in which the weights of :func:`pieces_of` lie already.
        """
        self._mover = mover
        outside, *blocks = pieces_of(transformer)
        for module in outside:
            _move_own(module, mover.device)
        self._pieces = [Piece(block, mover, row) for block, row in zip(blocks, rows[1:] or repeat(None), strict=False)]
        self._buffers: list[Tensor] = []
        self._holds: list[int | None] = [None, None]  # the block whose weights are in each buffer
        self._free: list[Any] = [None, None]  # the mark at which each buffer is not read any more

    def bring(self) -> None:
        """As :meth:`BlockWeights.bring`: the buffers are made."""
        if not self._buffers:
            largest = max(piece.nbytes for piece in self._pieces)
            with torch.inference_mode(False):
                self._buffers = [
                    torch.empty(largest, dtype=torch.uint8, device=self._mover.device) for _ in self._holds
                ]

    def drop(self) -> None:
        """As :meth:`BlockWeights.drop`."""
        for piece in self._pieces:
            piece.drop()
        self._buffers, self._holds, self._free = [], [None, None], [None, None]

    @contextmanager
    def on_device(self, number: int) -> Iterator[None]:
        """As :meth:`BlockWeights.on_device`; the next block's weights are fetched meanwhile."""
        following = (number + 1) % len(self._pieces)
        if number not in self._holds:
            self._fetch(number, 1 if self._holds[0] == following else 0)
        place = self._holds.index(number)
        self._pieces[number].ready()
        if following not in self._holds:
            self._fetch(following, 1 - place)
        yield
        self._free[place] = self._mover.mark()

    def _fetch(self, number: int, place: int) -> None:
        held = self._holds[place]
        if held is not None:
            self._pieces[held].drop()
        self._pieces[number].bring(self._buffers[place], self._free[place])
        self._holds[place] = number


class Residency:
    """Keeps the transformer in use where it can run."""

    def __init__(self, weights: Sequence[BlockWeights] = ()) -> None:
        """
        Args:
            weights: of each transformer; none where all of them are on the device for good.
        """
        self._weights = weights
        self._in_use: int | None = None

    def use(self, number: int) -> None:
        """A transformer's turn begins. The weights of the others are dropped before, so that two are never there."""
        if not self._weights or number == self._in_use:
            return
        for other in (*self._weights[:number], *self._weights[number + 1 :]):
            other.drop()
        self._weights[number].bring()
        self._in_use = number


class ResidentAdapter:
    """An adapter whose blocks run one by one, each while its weights are on the device."""

    def __init__(self, adapter: Adapter, weights: BlockWeights) -> None:
        self._adapter = adapter
        self._weights = weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def blocks(self, activations: Any, start: int, stop: int) -> Any:
        """As :meth:`Adapter.blocks`."""
        for number in range(start, stop):
            with self._weights.on_device(number):
                activations = self._adapter.blocks(activations, number, number + 1)
        return activations

    def signal(self, activations: Any, name: StepSignal) -> Tensor:
        """As :meth:`Adapter.signal`; some look through the first block's norm."""
        with self._weights.on_device(0):
            return self._adapter.signal(activations, name)


def with_residence(adapter: Adapter, weights: BlockWeights | None) -> Adapter:
    """The adapter, which waits for its blocks' weights unless they are on the device for good."""
    return adapter if weights is None else cast(Adapter, ResidentAdapter(adapter, weights))


def pieces_of(transformer: nn.Module) -> list[list[nn.Module]]:
    """The modules of a transformer that come and go together: what is outside the blocks, and each block."""
    blocks = [list(block.modules()) for block in list_blocks(transformer)]
    inside = {part for block in blocks for part in block}
    return [[part for part in transformer.modules() if part not in inside], *blocks]


def _move_own(module: nn.Module, device: torch.device) -> None:
    """Copy a module's own parameters and buffers, not those of its children. Copied on the CPU too, where tests are: in
    a file's memory they lie at any address, by which sums of the same numbers are rounded otherwise."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.data = tensor.data.to(device, copy=True)
