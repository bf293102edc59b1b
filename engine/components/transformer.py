"""Loads a transformer."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from engine.components.dequantising import is_in_fp8
from engine.components.dtypes import transformer_dtype
from engine.components.empty import empty_component
from engine.components.files import loading
from engine.components.loras.adding import add_loras
from engine.components.loras.plan import Plan
from engine.components.quantising.loading import fill_compact
from engine.components.quantising.torchao_weights import Scheme, scheme_for
from engine.components.single_files import load_weights, stored_weights
from engine.config import Config
from engine.models.quantised import MARKER
from engine.models.single_files import is_gguf_file
from engine.models.weights import weight_files
from parallel.diffusers_private import ignored_keys
from parallel.ranks import Ranks
from parallel.slices import load_slices, load_together
from parallel.weights import ShardedWeights, shard_pieces


def load_transformer(
    config: Config,
    device: torch.device,
    kind: Any,
    subfolder: str = "transformer",
    straight: bool = False,
    group: dist.ProcessGroup | None = None,
    loras: Sequence[Plan] = (),
) -> Any:
    """The transformer in a subfolder of the model, with its adapters: a ``kind`` in evaluation mode, on the CPU.

    Args:
        device: on which it will run; it decides the dtype, and quantises weights.
        straight: read it to the device, and cast it there; of one that is quantised or published in float8 the matrices
            alone, and not where it comes from a single file.
        group: with ``straight`` the ranks of the machine, of which one reads for all. Collective over them.

    Raises:
        RankFailure: a file cannot be loaded, or an adapter cannot be added.
    """
    dtype = transformer_dtype(config, device)
    scheme = scheme_for(config.model.quantize, device, dtype)
    file = config.model.single_files.get(subfolder)  # type: ignore[call-overload]
    if scheme is not None or (file and is_gguf_file(file)):
        home = device if straight else torch.device("cpu")
        return _load_compact(config, device, kind, subfolder, scheme, loras, home)
    if straight and not file and not is_in_fp8(config.model.path, subfolder):
        transformer = _load_straight(config, device, kind, subfolder, dtype, group)
    else:
        transformer = load_weights(kind, config, subfolder, dtype)
    add_loras(transformer, loras, subfolder)
    return transformer.eval()


def _load_compact(
    config: Config,
    device: torch.device,
    kind: Any,
    subfolder: str,
    scheme: Scheme | None,
    loras: Sequence[Plan],
    home: torch.device,
) -> Any:
    file = config.model.single_files.get(subfolder)  # type: ignore[call-overload]
    with loading(subfolder, file or config.model.path):
        transformer = empty_component(kind, config.model.path, subfolder, transformer_dtype(config, device))
        stored = stored_weights(kind, config, subfolder, transformer)
    fill_compact(transformer, stored, scheme, loras, subfolder, device, home)
    return transformer.eval()


def _load_straight(
    config: Config,
    device: torch.device,
    kind: Any,
    subfolder: str,
    dtype: torch.dtype,
    group: dist.ProcessGroup | None,
) -> Any:
    path = config.model.path
    with loading(subfolder, path):
        transformer = empty_component(kind, path, subfolder, dtype)
        files, ignored = weight_files(path, subfolder), (*ignored_keys(transformer), MARKER)
        if group is None:
            load_slices(transformer, files, device, ignored)
        else:
            load_together(transformer, files, device, group, ignored)
    return transformer.to(device)  # buffers, which no file holds


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
