"""What one of eight ranks computes, on one device."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

from launch.check.finding import Finding, judged
from launch.check.large_model import LargeModel, large_model
from launch.check.limits import STEP_SHARE_OF_PEAK
from launch.check.site import Site
from parallel.degrees import Degrees
from parallel.kernels import KernelName, choose_kernel
from parallel.kernels import Site as Place

if TYPE_CHECKING:
    import torch

_DEGREES = Degrees(cfg=2, ulysses=4)
_ROUNDS = 3


def rank_of_eight(site: Site) -> Finding:
    """The blocks of the large model as rank 0 of cfg 2 x ulysses 4, over groups that send nothing."""
    import torch

    from engine.execution.peak import measure_peak_flops
    from parallel.fake_ranks import one_rank_of

    model = large_model(site.device)
    with one_rank_of(_DEGREES, 0, site.device) as ranks, torch.inference_mode():
        tokens, seconds = _run(model, ranks)
    rate = measure_peak_flops(site.device, model.dtype)
    flops = _flops(model) / seconds
    share = STEP_SHARE_OF_PEAK.on(site.kind)
    short = []
    if flops < share * rate:
        short.append(f"its blocks have {flops / rate:.2f} of the rate of matrix products, below {share:g}")
    figure = f"{model}, of which {tokens} are the rank's: {1000 * seconds:.1f} ms, {flops / 1e12:.3g} TFLOP/s"
    return judged([], figure, f"at least {share:g} of the rate of matrix products; nothing is sent", short)


def _run(model: LargeModel, ranks: Any) -> tuple[int, float]:
    """This rank's tokens, and the seconds of all blocks of its branch."""
    import torch

    from engine.components.wan.parts import PARTS
    from parallel.attention import install_sequence_attention
    from parallel.meter import CollectiveMeter
    from parallel.sharding import plan_shards

    adapter = PARTS.adapter(model.transformer(ranks.device))
    attention = install_sequence_attention(adapter.transformer, ranks, _kernel(ranks.device, model.dtype))
    latents = torch.randn(model.latents_shape, device=ranks.device)
    shards = plan_shards(adapter.num_tokens(latents.shape), ranks)
    attention.begin(shards, CollectiveMeter())
    width = model.published.transformer.get("text_dim", 4096)
    text = {"prompt_embeds": torch.randn(1, model.text_tokens, width, device=ranks.device)}
    conditions = adapter.conditions([text], latents, shards)
    entering = adapter.embed(latents, torch.tensor(500.0, device=ranks.device), conditions, shards)[0]
    seconds = []
    for _ in range(_ROUNDS + 1):
        _wait(ranks.device)
        started = time.perf_counter()
        out = adapter.blocks(entering, 0, adapter.num_blocks)
        _wait(ranks.device)
        seconds.append(time.perf_counter() - started)
    assert out.hidden_states.shape[1] == shards.length
    return shards.length, median(seconds[1:])


def _kernel(device: torch.device, dtype: torch.dtype) -> KernelName:
    """The one that "auto" means here."""
    from parallel.found_kernels import capability_of, find_kernels

    site = Place(device.type, str(dtype).removeprefix("torch."), capability=capability_of(device))
    return choose_kernel("auto", site, find_kernels(device.type)).kernel


def _flops(model: LargeModel) -> float:
    from engine.cost.flops import block_flops
    from engine.cost.lanes import LaneInputs, share_of

    lane = LaneInputs(model.tokens, model.text_tokens)
    share = share_of(model.shape, lane, _DEGREES, 0)
    return float(sum(block_flops(model.shape, lane, share, range(model.shape.num_blocks)).values()))


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
