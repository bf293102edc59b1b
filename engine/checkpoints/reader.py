"""Finds the newest complete checkpoint of a request, and reads one rank's part of it."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dicache.controller import Lane
from engine.checkpoints import shard_file
from engine.checkpoints.names import newest_first
from engine.checkpoints.state import LaneSeconds, RequestState, unpack
from engine.errors import RankFailure
from parallel.broadcast import object_from_first, objects_of_all
from parallel.ranks import Ranks
from parallel.sharding import Shards


def newest_whole(folders: Sequence[Path], ranks: Ranks) -> list[Path] | None:
    """The files of the newest checkpoint whose checksums are right, or None; collective over the replica.

    Each rank checks its share of the files, so the check takes as long as one rank's part. Only the first rank lists
    the folders, since a network file system may show other ranks new files later. It removes checkpoints that are newer
    and not whole, because the run that continues will write there again.

    Args:
        folders: of the request; of two checkpoints after as many steps that in the earlier folder counts.

    Raises:
        RankFailure: a file cannot be read, on all ranks: it may be whole, so it is neither removed nor passed over.
    """
    for step in object_from_first(newest_first(folders) if ranks.replica_rank == 0 else None, ranks):
        files: list[Path] | None = object_from_first(shard_file.find(step) if ranks.replica_rank == 0 else None, ranks)
        if files is not None:
            mine = files[ranks.replica_rank :: ranks.replica_size]
            found = objects_of_all(_are_whole(mine), ranks)
            if complaint := next((each for each in found if isinstance(each, str)), None):
                raise RankFailure(f"The checkpoint {step} cannot be read ({complaint}): see to its disk, then resume.")
            if all(found):
                return files
        if ranks.replica_rank == 0:
            shutil.rmtree(step, ignore_errors=True)
    return None


def _are_whole(files: Sequence[Path]) -> bool | str:
    """Whether all of them are; where one cannot be read, why."""
    try:
        return all(map(shard_file.is_whole, files))
    except OSError as error:
        return error.strerror or str(error)


def read_state(
    files: Sequence[Path], shards: Shards, own: Callable[[Lane], bool], device: torch.device
) -> RequestState:
    """This rank's state, with its shard of the tokens in the layout of now.

    Args:
        files: of all ranks that wrote the checkpoint, known to be whole.
        shards: which tokens each rank holds now.
        own: whether this rank computes a lane.
    """
    plains = [shard_file.read_plain(file) for file in files]
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
        holders: dict[str, list[int]] = {}
        for index, file in enumerate(opened):
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                holders.setdefault(name, []).append(index)

        def read_cache(name: str) -> Tensor:
            return _read_tokens(
                [(plains[index]["tokens"][0], opened[index].get_slice(name)) for index in holders[name]], shards
            )

        return unpack(
            plains[0],
            _longest(plains),
            [name for name in holders if name.startswith("cache.")],
            lambda name: opened[0].get_tensor(name),
            read_cache,
            own,
            device,
        )


def _read_tokens(parts: Sequence[tuple[int, Any]], shards: Shards) -> Tensor:
    """This rank's tokens, [1, local tokens, dim], from parts that begin at the given token indices. A signal that all
    tokens have in common is stored as the first token's."""
    start, stop = shards.start, shards.start + shards.length
    pieces = []
    for first, part in sorted(parts, key=lambda pair: pair[0]):
        last = first + part.get_shape()[1]
        if first < stop and start < last:
            pieces.append(part[:, max(start, first) - first : min(stop, last) - first])
    return torch.cat(pieces, dim=1) if pieces else parts[0][1][:, :0]


def _longest(plains: Sequence[dict[str, Any]]) -> LaneSeconds:
    seconds: LaneSeconds = {}
    for plain in plains:
        for step, lane, value in plain["seconds"]:
            key = step, Lane(**lane)
            seconds[key] = max(seconds.get(key, 0.0), value)
    return seconds
