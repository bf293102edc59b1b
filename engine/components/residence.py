"""Where the parts beside the transformers are while they are not used: text encoders, image encoders, the VAE."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from engine.components.host_copies import Mover, Piece
from engine.components.node_copies import NodeCopies, whole
from engine.components.signs_of_life import SignsOfLife

Part = TypeVar("Part", bound=nn.Module)


class Resident:
    """A part of a model that is on its device inside :meth:`on_device`."""

    def __init__(self, pieces: tuple[Piece, ...], residence: "Residence") -> None:
        self._pieces = pieces
        self._residence = residence

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """The part may run inside. Afterwards it stays where there is room, as :meth:`Residence.begin` was told."""
        for piece in self._pieces:
            piece.bring()
        for piece in self._pieces:
            piece.ready()
        try:
            yield
        finally:
            if not self._residence.stays:
                self.leave()

    def leave(self) -> None:
        """Drop the device's copy."""
        for piece in self._pieces:
            piece.drop()


class Residence:
    """Where the parts of one rank are. On the CPU they are where they are used, and nothing is ever copied."""

    def __init__(
        self, mover: Mover | None = None, signs: SignsOfLife | None = None, copies: NodeCopies | None = None
    ) -> None:
        """
        Args:
            mover: copies weights to the device; None where they are there from the beginning.
            signs: told of all that the parts compute.
            copies: of the encoders, which the first ranks of this machine's replicas share; None: each has its own.
        """
        self._mover = mover
        self._signs = signs
        self._copies = copies
        self._rows: dict[nn.Module, Tensor] = {}  # where weights lie already
        self._residents: list[Resident] = []
        self.stays = False

    def load(self, load: Callable[[], Part]) -> Part:
        """An encoder that is settled later; collective over the ranks that share its host copy. On the first rank of a
        replica.

        Args:
            load: gives it on the CPU.

        Raises:
            RankFailure: it cannot be loaded.
        """
        if self._copies is None:
            return load()
        module: Part
        module, (self._rows[module],) = self._copies.load(load, whole)
        return module

    def settle(self, *modules: nn.Module) -> Resident:
        """Take over loaded modules. Their weights get a host copy, unless they are where they are used."""
        if self._signs is not None:
            for module in modules:
                self._signs.watch(module)
        pieces: tuple[Piece, ...] = ()
        if self._mover is not None:
            pieces = tuple(Piece(each.modules(), self._mover, self._rows.pop(each, None)) for each in modules)
        self._residents.append(Resident(pieces, self))
        return self._residents[-1]

    @property
    def moves(self) -> bool:
        """Whether parts come and go at all."""
        return self._mover is not None

    def begin(self, stays: bool) -> None:
        """A request begins.

        Args:
            stays: the card has room for all parts beside the transformer, so that none has to come a second time.
        """
        self.stays = stays
        if not stays:
            for resident in self._residents:
                resident.leave()


def at_home(device: torch.device, residence: Residence | None) -> Residence:
    """The residence that is given, or one for parts that were loaded where they are used.

    Raises:
        ValueError: there is none, although the device is another one than the CPU.
    """
    if residence is not None:
        return residence
    if device.type != "cpu":
        raise ValueError(f"Parts that run on {device} need a residence.")
    return Residence()
