"""Blocks that torch.compile has compiled: each kind of block once, for all blocks of that kind, lanes and sizes.

The forward pass of a block is compiled, and not the call of the module, as diffusers' ``compile_repeated_blocks`` does:
so what hooks do around it, such as the gathers of shared-out weights, stays outside and cannot split the graph.
"""

from collections.abc import Sequence

from torch import nn

from engine.progress import Progress
from parallel.torch_private import compiled
from parallel.weights import list_blocks


class CompiledBlocks:
    """The blocks of all experts, which compile when they first run. Experts of one architecture share their graphs."""

    def __init__(self, transformers: Sequence[nn.Module]) -> None:
        self._is_announced = False
        for transformer in transformers:
            for block in list_blocks(transformer):
                block.forward = compiled(block.forward)

    def announce(self, progress: Progress) -> None:
        """Say, before the first step after loading, why it takes long."""
        if not self._is_announced:
            progress.note("the first step compiles the transformer's blocks")
        self._is_announced = True
