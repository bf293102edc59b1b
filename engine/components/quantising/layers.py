"""Which layers of a transformer are quantised."""

from collections.abc import Iterator

from torch import nn

from parallel.weights import list_blocks


def block_matrices(transformer: nn.Module) -> set[str]:
    """The names of the weights of all linear layers in the blocks."""
    return {name for name, _ in _matrices(transformer)}


def quantised_names(transformer: nn.Module) -> set[str]:
    """The names of the weights that ``model.quantize`` quantises: those of attention and feed-forward in the blocks.

    All else stays in high precision: embeddings of patches, time, text and images, the refiner of texts, norms with
    the layers that make their shifts, scales and gates (modulation), biases, and the head.
    """
    return {name for name, path in _matrices(transformer) if not any("norm" in part for part in path)}


def _matrices(transformer: nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Names of weights, and the parts of the names of their layers inside the block."""
    blocks = {id(block) for block in list_blocks(transformer)}
    for prefix, block in transformer.named_modules():
        if id(block) in blocks:
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    yield f"{prefix}.{name}.weight", name.split(".")
