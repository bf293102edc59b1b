"""A transformer's weights as an adapter's reference sees them, and an adapter that is to be written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support.adapter_names import NamedLayer, named_layers

Weights = Mapping[str, Tensor]


@dataclass
class Model:
    """family: of :func:`tests.support.adapter_names.named_layers`; weights: the transformer's, float32."""

    family: str
    blocks: int
    weights: Weights

    def layers(self) -> list[NamedLayer]:
        """Those of the original that this model has."""
        return [
            layer
            for layer in named_layers(self.family, self.blocks)
            if all(self.parameter(part) in self.weights for part in layer.parts)
        ]

    def own_layers(self) -> list[NamedLayer]:
        """The same under diffusers' names."""
        parts = dict.fromkeys(part for layer in self.layers() for part in layer.parts)
        return [NamedLayer(part, (part,)) for part in parts]

    def parameter(self, part: str) -> str:
        return part if part in self.weights else f"{part}.weight"

    def has_bias(self, layer: NamedLayer) -> bool:
        return all(f"{part}.bias" in self.weights for part in layer.parts)

    def whole(self, layer: NamedLayer, weights: Weights, bias: bool = False) -> Tensor:
        """A layer's weight or bias in the original's order of rows, float64."""
        names = [f"{part}.bias" if bias else self.parameter(part) for part in layer.parts]
        joined = torch.cat([weights[name].double() for name in names])
        return torch.cat(joined.chunk(2)[::-1]) if layer.swapped else joined

    def put(self, layer: NamedLayer, weights: dict[str, Tensor], value: Tensor, bias: bool = False) -> None:
        """The other way round."""
        value = torch.cat(value.chunk(2)[::-1]) if layer.swapped else value
        names = [f"{part}.bias" if bias else self.parameter(part) for part in layer.parts]
        for name, rows in zip(names, value.split([len(weights[name]) for name in names]), strict=True):
            weights[name] = rows


@dataclass
class Adapter:
    """tensors: of the file. expected: the weights, once it is added; with a scale. left: names that are not applied.
    paths: how the file spells the layers that it changes, with what changes them."""

    scale: float
    tensors: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, object] | None = None  # peft's adapter_config.json
    expected: dict[str, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    paths: dict[str, tuple[NamedLayer, str]] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The file, or with settings of peft the folder."""
        folder.mkdir(parents=True)
        tensors = {name: tensor.contiguous().clone() for name, tensor in self.tensors.items()}
        if self.config is None:
            save_file(tensors, folder / "adapter.safetensors", metadata=self.metadata or None)
            return folder / "adapter.safetensors"
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        return folder
