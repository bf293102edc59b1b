"""Bandwidth and latency between ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from launch.check.finding import Finding, judged, not_here
from launch.check.limits import LINK_GIGABYTES, LINK_MICROSECONDS, LINK_RATIO, NODE_LINK_GIGABYTES
from launch.check.site import Site
from parallel.degrees import Degrees

if TYPE_CHECKING:
    import torch

_CUDA_BYTES, _CPU_BYTES = 256 * 2**20, 4 * 2**20
_ROUNDS, _SMALL_ROUNDS = 5, 20
# bytes that a rank sends, as a share of what the collective is given, for n ranks: what a ring of them sends
_SENT: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
}


def links(site: Site) -> Finding:
    """Each collective at a large and a tiny size, and each pair of neighbours by itself."""
    if site.ranks == 1:
        return not_here("there is one rank: a link has two ends")
    with site.joined(Degrees(ring=site.ranks)):
        kinds = {kind: _collective(kind, site) for kind in _SENT}
        pairs = _pairs(site)
    figure = "; ".join(f"{kind} {rate:.2g} GB/s, {delay:.0f} us" for kind, (rate, delay) in kinds.items())
    figure += "; pairs " + ", ".join(f"{a}-{b} {rate:.2g} GB/s" for (a, b), rate in pairs.items())
    return judged([], figure, _limits(site), _shortfalls(site, kinds, pairs))


def _shortfalls(site: Site, kinds: dict[str, tuple[float, float]], pairs: dict[tuple[int, int], float]) -> list[str]:
    latency, floor = LINK_MICROSECONDS.on(site.kind), _floor(site, across=site.nodes > 1)
    short = [f"{kind} takes {us:.0f} us, above {latency:g}" for kind, (_, us) in kinds.items() if us > latency]
    short += [f"{kind} has {rate:.2g} GB/s, below {floor:g}" for kind, (rate, _) in kinds.items() if rate < floor]
    for across in (False, True):
        alike = {pair: rate for pair, rate in pairs.items() if _is_across(pair, site) == across}
        floor = _floor(site, across)
        for (a, b), rate in alike.items():
            if rate < floor:
                short.append(f"ranks {a} and {b} have {rate:.2g} GB/s, below {floor:g}")
            elif rate * LINK_RATIO.on(site.kind) < max(alike.values()):
                short.append(f"ranks {a} and {b} have {rate:.2g} GB/s, where others have {max(alike.values()):.2g}")
    return short


def _floor(site: Site, across: bool) -> float:
    return (NODE_LINK_GIGABYTES if across else LINK_GIGABYTES).on(site.kind)


def _is_across(pair: tuple[int, int], site: Site) -> bool:
    return pair[0] // site.local_ranks != pair[1] // site.local_ranks


def _limits(site: Site) -> str:
    floors = [f"at least {_floor(site, False):g} GB/s inside a machine"] if site.local_ranks > 1 else []
    if site.nodes > 1:
        floors.append(f"{_floor(site, True):g} between machines")
    return f"{', '.join(floors)}, at most {LINK_MICROSECONDS.on(site.kind):g} us, links of a kind alike"


def _collective(kind: str, site: Site) -> tuple[float, float]:
    """GB/s that each rank sends, and microseconds of the same with eight bytes a rank."""
    large = _CUDA_BYTES if site.kind == "cuda" else _CPU_BYTES
    seconds = _timed(_prepared(kind, large, site), _ROUNDS, site.device)
    delay = _timed(_prepared(kind, 8 * site.ranks, site), _SMALL_ROUNDS, site.device)
    return large * _SENT[kind](site.ranks) / seconds / 1e9, 1e6 * delay


def _prepared(kind: str, num_bytes: int, site: Site) -> Callable[[], object]:
    import torch
    import torch.distributed as dist

    whole = torch.zeros(num_bytes // 4 // site.ranks * site.ranks, device=site.device)
    part, other = whole.chunk(site.ranks)[site.rank].clone(), torch.empty_like(whole)
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: dist.all_gather_single(whole, part),
        "all_to_all": lambda: dist.all_to_all_single(other, whole),
        "broadcast": lambda: dist.broadcast(whole, 0),
    }
    return calls[kind]


def _pairs(site: Site) -> dict[tuple[int, int], float]:
    """GB/s from each rank to the next one, one pair after the other; the same on every rank."""
    import torch
    import torch.distributed as dist

    size = _CUDA_BYTES if site.kind == "cuda" else _CPU_BYTES
    message = torch.zeros(size // 4, device=site.device)
    rates = {}
    for first in range(site.ranks if site.ranks > 2 else 1):
        pair = first, (first + 1) % site.ranks
        dist.barrier()
        seconds = 0.0
        if site.rank == pair[0]:
            seconds = _timed(lambda other=pair[1]: _there_and_back(message, other, True), 2, site.device)  # type: ignore[misc]
        elif site.rank == pair[1]:
            _timed(lambda other=pair[0]: _there_and_back(message, other, False), 2, site.device)  # type: ignore[misc]
        seconds = site.everyones(f"links/{first}", seconds)[pair[0]]
        rates[pair] = 2 * size / seconds / 1e9
    return rates


def _there_and_back(message: torch.Tensor, other: int, begins: bool) -> None:
    import torch.distributed as dist

    for sends in (begins, not begins):
        (dist.send if sends else dist.recv)(message, other)


def _timed(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Median seconds, after one round that connects the ranks."""
    import torch

    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])
