"""Fills a transformer whose weights have fewer bits, tensor by tensor: it is never whole in more bits, neither in the
host's memory nor on the device."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.components.gguf_files import gguf_linear
from engine.components.loras.adding import add_loras, changed_names
from engine.components.loras.plan import Plan
from engine.components.quantising.layers import block_matrices, quantised_names
from engine.components.quantising.torchao_weights import Scheme, kept_in_fp8, quantised
from engine.components.stored import FP8, StoredWeights, is_gguf


def fill_compact(
    transformer: Any,
    stored: StoredWeights,
    scheme: Scheme | None,
    loras: Sequence[Plan],
    subfolder: str,
    device: torch.device,
    home: torch.device,
) -> None:
    """Fill a transformer on the meta device. Matrices of its blocks are quantised, or kept as they are published.

    Adapters are added in full precision to one block after the other, before that block is quantised; what is published
    in float8 is then rounded anew, with a scale for each row.

    Args:
        stored: under the names of ``transformer``.
        scheme: None to dequantise what is published in float8.
        subfolder: of the transformer in the model's folder, for its adapters.
        device: on which matrices are quantised. home: where those are afterwards; all else is on the CPU.

    Raises:
        RankFailure: an adapter cannot be read, or it or the weights that it makes are not finite.
    """
    filling = _Filling(transformer, stored, scheme, device, home)
    changed = changed_names(loras, subfolder)
    for name in stored.tensors:
        if name not in changed:
            filling.put(name)
    add_loras(transformer, loras, subfolder, filling.changing)


class _Filling:
    """A transformer that is being filled."""

    def __init__(
        self, transformer: Any, stored: StoredWeights, scheme: Scheme | None, device: torch.device, home: torch.device
    ) -> None:
        self._transformer, self._stored, self._scheme = transformer, stored, scheme
        self._device, self._home = device, home
        self._dtypes = {name: tensor.dtype for name, tensor in transformer.state_dict().items()}
        self._gguf = {name for name in block_matrices(transformer) if is_gguf(stored.tensors[name])}
        self._published: set[str] = set()  # matrices that stay in the float8 that the file holds
        self._chosen: set[str] = set()
        if scheme is not None:
            in_fp8 = {name for name, tensor in stored.tensors.items() if tensor.dtype in FP8}
            self._published = in_fp8 & block_matrices(transformer)
            self._chosen = set() if in_fp8 else quantised_names(transformer)

    def put(self, name: str) -> None:
        """Give the transformer a tensor in the form in which it runs."""
        if name in self._gguf:
            self._put_gguf(name)
        elif name in self._published and self._scheme:
            weight, scales = self._stored.tensors[name].to(self._device), self._stored.rows(name)
            kept = kept_in_fp8(weight, scales.to(self._device), self._scheme, self._dtypes[name])
            self._set(name, kept.to(self._home))
        elif name in self._chosen:
            self._quantise(name, self._stored.plain(name, self._dtypes[name]))
        else:
            self._set(name, self._stored.plain(name, self._dtypes[name]))

    @contextmanager
    def changing(self, names: Collection[str]) -> Iterator[None]:
        """These parameters are plain inside, and in the form in which they run afterwards."""
        for name in names:
            self._set(name, self._stored.plain(name, self._dtypes[name]))
        yield
        for name in names:
            if name in self._published | self._chosen:
                self._quantise(name, self._transformer.get_parameter(name).data)

    def _quantise(self, name: str, weight: Tensor) -> None:
        assert self._scheme is not None
        self._set(name, quantised(weight.to(self._device), self._scheme).to(self._home))

    def _put_gguf(self, name: str) -> None:
        path = name.removesuffix(".weight")
        owner, _, leaf = path.rpartition(".")
        layer: Any = self._transformer.get_submodule(path)
        made = gguf_linear(layer, self._stored.tensors[name], self._dtypes[name])
        self._transformer.get_submodule(owner).register_module(leaf, made)

    def _set(self, name: str, tensor: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        module: Any = self._transformer.get_submodule(owner)
        if leaf in dict(module.named_buffers(recurse=False)):
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
