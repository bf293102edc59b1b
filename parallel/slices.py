"""Reads only this rank's part of the weights from safetensors files."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from parallel.torch_private import local_slices


def load_slices(module: nn.Module, files: Sequence[Path], device: torch.device, ignored: Iterable[str] = ()) -> None:
    """Fill a module on the meta device from safetensors files, cast to the dtypes of its parameters.

    Of a parameter that is sharded over ranks, only this rank's rows are read. Nothing is collective.

    torch's own reader (``torch.distributed.checkpoint.HuggingFaceStorageReader``) takes every file in the folder, so a
    second copy of the weights in it (in float16, say) would silently replace the first.

    Args:
        device: of the filled parameters.
        ignored: regular expressions; tensors whose names match one are skipped, and so are
            unknown ones without elements.

    Raises:
        ValueError: a tensor is missing, has another shape, or is unknown to the module; a phrase that names it.
        OSError, safetensors.SafetensorError: a file cannot be read.
    """
    wanted: dict[str, Tensor] = module.state_dict(keep_vars=True)
    names = defaultdict(list)  # of each tensor: tied ones have several, of which the files hold one
    for name, tensor in wanted.items():
        names[id(tensor)].append(name)
    held = _find(wanted, files, ignored)
    for file, there in held.items():  # one file at a time, since uneven shards are copied once more to be padded
        parts: dict[str, Tensor] = {}
        with safe_open(file, framework="pt", device=str(device)) as source:
            for name in there:
                part = _read(source.get_slice(name), wanted[name], device)
                parts |= dict.fromkeys(names[id(wanted[name])], part)
        module.load_state_dict(parts, strict=False, assign=True)


def load_together(
    module: nn.Module,
    files: Sequence[Path],
    device: torch.device,
    group: dist.ProcessGroup,
    ignored: Iterable[str] = (),
) -> None:
    """As :func:`load_slices` for whole tensors, of which the group's first rank reads each once, casts it on its device
    and sends it to the others. Collective over the group; on all ranks the module is the same.

    Raises:
        ValueError: as of :func:`load_slices`, on all ranks alike.
    """
    wanted: dict[str, Tensor] = module.state_dict(keep_vars=True)
    names = defaultdict(list)
    for name, tensor in wanted.items():
        names[id(tensor)].append(name)
    reads = dist.get_rank(group) == 0
    told: list[Any] = [None, None]
    if reads:
        try:
            told[0] = _find(wanted, files, ignored)
        except (ValueError, OSError, SafetensorError) as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, group_src=0, group=group)
    held, problem = told
    if problem is not None:
        raise ValueError(problem)
    for file, there in held.items():
        parts: dict[str, Tensor] = {}
        with safe_open(file, framework="pt", device=str(device)) if reads else nullcontext() as source:
            for name in there:
                part = torch.empty_like(wanted[name], device=device)
                if source is not None:
                    part.copy_(source.get_tensor(name))
                dist.broadcast(part, group_src=0, group=group)
                parts |= dict.fromkeys(names[id(wanted[name])], part)
        module.load_state_dict(parts, strict=False, assign=True)


def add_part(parameter: Tensor, change: Tensor) -> None:
    """Add ``change`` to a loaded parameter, or this rank's rows of it to a sharded one. Nothing is collective.

    Args:
        parameter: of a module that has not run yet.
        change: the whole change, in the parameter's shape, on any device. The sum is computed in the finer of the two
            dtypes and then rounded to the parameter's.

    Raises:
        ValueError: the sum is not finite; the message is a phrase.
    """
    if isinstance(parameter, DTensor):
        local = parameter.to_local()
        if not local.numel():
            return
        local.add_(change[local_slices(parameter)].to(local.device))
    else:
        # not in place, for the weights may lie in a file that is mapped
        local = parameter.data = torch.add(parameter.data, change.to(parameter.device)).to(parameter.dtype)
    if not local.isfinite().all():
        raise ValueError("it makes weights that are not finite")


def whole(parameter: Tensor) -> Tensor:
    """A parameter with the rows of all ranks; collective over the ranks that share a sharded one."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.data


def _find(wanted: dict[str, Tensor], files: Sequence[Path], ignored: Iterable[str]) -> dict[Path, list[str]]:
    """The names of the wanted tensors by file.

    Raises:
        ValueError: a tensor is missing, has another shape, or is unknown; a phrase that names it.
    """
    held = {file: _check_header(file, wanted, [re.compile(pattern) for pattern in ignored]) for file in files}
    found = {id(wanted[name]) for there in held.values() for name in there}
    for name, tensor in wanted.items():
        if id(tensor) not in found:
            raise ValueError(f"the tensor {name} is missing")
    return held


def _check_header(file: Path, wanted: dict[str, Tensor], ignored: Sequence[re.Pattern[str]]) -> list[str]:
    """The names of the wanted tensors in a file; reads its header alone."""
    there = []
    with safe_open(file, framework="pt") as source:
        for name in source.keys():  # noqa: SIM118  it is no dictionary
            if name in wanted:
                shape, expected = source.get_slice(name).get_shape(), list(wanted[name].shape)
                if shape != expected:
                    raise ValueError(f"{name} has the shape {shape} in {file.name} instead of {expected}")
                there.append(name)
            elif prod(source.get_slice(name).get_shape()) and not any(pattern.search(name) for pattern in ignored):
                raise ValueError(f"{file.name} holds {name}, which this model does not have")
    return there


def _read(source: Any, wanted: Tensor, device: torch.device) -> Tensor:
    """A tensor of a file, or this rank's rows of it."""
    tensor = torch.empty_like(wanted, device=device)
    if not isinstance(tensor, DTensor):
        return tensor.copy_(source[:])
    local = tensor.to_local()
    if local.numel():  # more ranks than rows leave some without any
        local.copy_(source[local_slices(tensor)])
    return tensor
