"""Loads a transformer."""

from typing import Any

import torch

from engine.components.dtypes import transformer_dtype
from engine.components.empty import empty_component
from engine.components.files import loading
from engine.components.single_files import load_weights
from engine.config import Config
from engine.models.quantised import MARKER
from engine.models.weights import weight_files
from parallel.diffusers_private import ignored_keys
from parallel.ranks import Ranks
from parallel.slices import load_slices
from parallel.weights import ShardedWeights, shard_pieces


def load_transformer(config: Config, device: torch.device, kind: Any, subfolder: str = "transformer") -> Any:
    """The transformer in a subfolder of the model, a ``kind`` in evaluation mode, on the CPU.

    Args:
        device: on which it will run; it decides the dtype.

    Raises:
        RankFailure: a file cannot be loaded.
    """
    return load_weights(kind, config, subfolder, transformer_dtype(config, device)).eval()


def load_sharded_transformer(
    config: Config, ranks: Ranks, kind: Any, subfolder: str = "transformer"
) -> tuple[Any, ShardedWeights]:
    """The same transformer with only this rank's part of its weights, on its device; no rank reads all of them.

    Raises:
        RankFailure: a file cannot be loaded.
    """
    path = config.model.path
    with loading(subfolder, path):
        transformer = empty_component(kind, path, subfolder, transformer_dtype(config, ranks.device))
        weights = shard_pieces(transformer, ranks)
        load_slices(transformer, weight_files(path, subfolder), ranks.device, (*ignored_keys(transformer), MARKER))
    return transformer.eval(), weights
