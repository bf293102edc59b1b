"""The state of a request between two denoise steps, packed to named tensors and plain values, and unpacked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from dicache.controller import History, Lane, SegmentKey, Snapshot, Step

LaneSeconds = dict[tuple[int, Lane], float]
ReadTokens = Callable[[str], Tensor]


@dataclass(frozen=True)
class RequestState:
    """What a rank needs to continue a request with the same result. The noise is drawn again from the seed.

    steps_done: of the request. latents: float32 [samples, channels, frames, height, width], equal on every rank.
    scheduler: its attributes. corrector: its state, if there is one. snapshots: of the controllers, one for each
    expert. rows: of the run report, so far. resumed_at: steps that were done when the request was resumed, each time.
    seconds: of each (step, lane) that this rank computed.
    """

    steps_done: int
    latents: Tensor
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    snapshots: Sequence[Snapshot] = ()
    rows: Sequence[dict[str, Any]] = ()
    resumed_at: Sequence[int] = ()
    seconds: LaneSeconds = field(default_factory=dict)
    corrector: Mapping[str, Any] = field(default_factory=dict)


def shared_tensors(state: RequestState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that are equal on all ranks, of which one copy is saved, and the plain values of the state."""
    tensors: dict[str, Tensor] = {"latents": state.latents}
    plain = {
        "steps_done": state.steps_done,
        "scheduler": {name: _pack(f"scheduler.{name}", value, tensors) for name, value in state.scheduler.items()},
        "corrector": {name: _pack(f"corrector.{name}", value, tensors) for name, value in state.corrector.items()},
        "histories": [
            [[asdict(lane), segment, asdict(history)] for (lane, segment), history in snapshot.histories.items()]
            for snapshot in state.snapshots
        ],
        "rows": list(state.rows),
        "resumed_at": list(state.resumed_at),
    }
    return tensors, plain


def cache_tensors(state: RequestState) -> dict[str, Tensor]:
    """The cache of this rank's tokens, by name: [1, local tokens, dim] each.

    A name is "cache", the expert, the place of the lane and segment among the expert's histories, which is the same on
    every rank, the kind of tensor, and its age, separated by dots.
    """
    return {
        f"cache.{expert}.{place}.{kind}.{age}": tensor
        for expert, snapshot in enumerate(state.snapshots)
        for place, key in enumerate(snapshot.histories)
        for kind, tensors in snapshot.tensors.get(key, {}).items()
        for age, tensor in enumerate(tensors)
    }


def unpack(
    plain: Mapping[str, Any],
    seconds: LaneSeconds,
    cache_names: Sequence[str],
    read_shared: Callable[[str], Tensor],
    read_cache: ReadTokens,
    own: Callable[[Lane], bool],
    device: torch.device,
) -> RequestState:
    """The state from which a rank continues.

    Args:
        plain: of :func:`shared_tensors`. seconds: of all ranks.
        cache_names: of all ranks' cache tensors.
        read_shared: a tensor of :func:`shared_tensors` by name. read_cache: this rank's tokens of a cache tensor.
        own: whether this rank computes a lane.
    """
    histories: list[dict[SegmentKey, History]] = [
        {(Lane(**lane), segment): _history(Lane(**lane), history) for lane, segment, history in of_expert}
        for of_expert in plain["histories"]
    ]
    tensors: list[dict[SegmentKey, dict[str, list[Tensor]]]] = [{} for _ in histories]
    for name in sorted(cache_names, key=lambda name: int(name.rpartition(".")[2])):  # newest first
        _, expert, place, kind, _ = name.split(".")
        key = list(histories[int(expert)])[int(place)]
        if own(key[0]):
            tensors[int(expert)].setdefault(key, {}).setdefault(kind, []).append(read_cache(name).to(device))
    return RequestState(
        steps_done=plain["steps_done"],
        latents=read_shared("latents").to(device),
        scheduler={name: _unpack(value, read_shared, device) for name, value in plain["scheduler"].items()},
        snapshots=[Snapshot(*pair) for pair in zip(histories, tensors, strict=True)],
        rows=plain["rows"],
        resumed_at=plain["resumed_at"],
        seconds=seconds,
        corrector={name: _unpack(value, read_shared, device) for name, value in plain["corrector"].items()},
    )


def _history(lane: Lane, values: Mapping[str, Any]) -> History:
    computed = [Step(**step) for step in values["computed"]]
    return History(**{**values, "lane": lane, "computed": computed})


def _pack(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """Plain values unchanged; a tensor is added to ``tensors``, and its name and kind of device are returned."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name, "on_cpu": value.device.type == "cpu"}
    if isinstance(value, list):
        return [_pack(f"{name}.{i}", item, tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"The scheduler keeps {name}, a {type(value).__name__}, which a checkpoint cannot hold.")


def _unpack(value: Any, read: Callable[[str], Tensor], device: torch.device) -> Any:
    if isinstance(value, dict):
        tensor = read(value["tensor"])
        return tensor if value["on_cpu"] else tensor.to(device)
    if isinstance(value, list):
        return [_unpack(item, read, device) for item in value]
    return value
