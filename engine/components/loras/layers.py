"""The layers of a transformer under all names by which adapters know them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.models.layer_names import LayerNames, Renames

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Rows of a parameter of the transformer, and of its bias."""

    weight: str
    bias: str | None
    start: int
    stop: int


@dataclass(frozen=True)
class Layer:
    """What an adapter knows as one layer: one layer of the transformer, or several whose rows are put together.

    shape: of the whole weight.
    """

    pieces: tuple[Piece, ...]
    shape: Shape

    @property
    def name(self) -> str:
        """The name in diffusers; of joined layers that of the first."""
        return self.pieces[0].weight.removesuffix(".weight")

    @property
    def has_bias(self) -> bool:
        return all(piece.bias for piece in self.pieces)


def flat(name: str) -> str:
    """A name as kohya's trainers write it; some tools put dots for the underscores again, so all names are compared in
    this form."""
    return name.replace(".", "_")


def layers_by_name(shapes: Mapping[str, Shape], names: LayerNames) -> dict[str, Layer]:
    """Every layer under every name that it has, each with underscores for dots.

    Args:
        shapes: of the transformer's parameters, by their names in diffusers.
        names: of the family.
    """
    layers = {layer.name: layer for layer in _layers(shapes)}
    table = {flat(name): layer for name, layer in layers.items()}
    parts: dict[str, dict[str, Layer]] = defaultdict(dict)
    orders = {}
    for name, layer in layers.items():
        swapped = _swapped(layer) if name in names.swapped else layer
        for renames in names.renames:
            table.setdefault(flat(_renamed(name, renames)), swapped)
        if name.endswith(".to_out.0"):  # diffusers' attention processors had it so
            table.setdefault(flat(name.removesuffix(".0")), layer)
        for pattern, replacement, order in names.joined:
            if match := re.match(pattern, name):
                joined = flat(match.expand(replacement))
                parts[joined][match[match.lastindex or 0]] = layer
                orders[joined] = order
    for joined, there in parts.items():
        if there.keys() == set(orders[joined]):
            table.setdefault(joined, _joined([there[part] for part in orders[joined]]))
    return table


def _layers(shapes: Mapping[str, Shape]) -> Iterator[Layer]:
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if kind == "bias":
            continue
        # tables such as scale_shift_table are parameters by themselves
        bias = f"{layer}.bias" if kind == "weight" and f"{layer}.bias" in shapes else None
        yield Layer((Piece(name, bias, 0, shape[0]),), tuple(shape))


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _swapped(layer: Layer) -> Layer:
    (piece,) = layer.pieces
    middle = piece.stop // 2
    halves = ((middle, piece.stop), (0, middle))
    return Layer(tuple(Piece(piece.weight, piece.bias, *rows) for rows in halves), layer.shape)


def _joined(parts: list[Layer]) -> Layer:
    pieces = tuple(piece for part in parts for piece in part.pieces)
    return Layer(pieces, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))
