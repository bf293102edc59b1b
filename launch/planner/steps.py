"""Seconds of one denoise step on the rank with the largest share, by what they are spent on.

A block costs its matrix products, its attention, the memory traffic of all else, and what its ranks exchange. FLOPs and
tokens are those of this rank (:mod:`engine.cost.flops`). What a ring gathers is hidden behind the attention to its own
keys, a sharded block's weights behind the block before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.cost.flops import block_flops, head_flops
from engine.cost.lanes import share_of
from engine.cost.traffic import block_traffic, gather_bytes, guidance_bytes
from launch.planner.cluster import Cluster
from launch.planner.exchange import all_to_all_seconds, gather_seconds, sequence_axes
from launch.planner.parts import Parts, add, parts_of
from launch.planner.software import Software, Speeds, slower
from launch.planner.workload import Workload
from parallel.degrees import Degrees

_CACHE_PASSES_SKIPPED, _CACHE_PASSES_COMPUTED = 40, 30
"""Times that a lane's cache reads or writes [tokens, dim]: its sums in float64 and the estimate on a skipped step, 61
GB for both lanes of Wan 14B at 720p; its sums and the kept residuals on a computed one."""
_MERGE_PASSES = 24  # a ring adds each chunk's output to what it has, in float32: torch's merger, operation by operation
_TOKEN_MODULATION_PASSES = 48  # of a block more, where each token has six rows of its own in float32


@dataclass(frozen=True)
class Plan:
    """A layout on a cluster, with what is assumed about the program."""

    cluster: Cluster
    degrees: Degrees
    software: Software
    shard_weights: bool = False

    @property
    def dtype_bytes(self) -> int:
        """Of one number between the products."""
        return 4 if self.software.dtype == "float32" else 2

    @property
    def weight_bytes(self) -> float:
        """Of one parameter of a transformer; fp4 has a scale of 8 bits for 16 numbers."""
        if self.software.dtype == "float32":
            return 4.0
        return {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}[self.software.precision]


def computed_step(workload: Workload, plan: Plan, speeds: Speeds, *, cached: bool) -> Parts:
    """A step that runs all blocks.

    Args:
        cached: whether a cache looks at it.
    """
    parts = _run_blocks(workload, plan, speeds, workload.shape.num_blocks)
    around = _around(workload, plan, speeds, _CACHE_PASSES_COMPUTED if cached else 0, agrees=cached)
    return add((parts, 1), (around, 1))


def skipped_step(workload: Workload, plan: Plan, speeds: Speeds) -> Parts:
    """A step that runs the probe blocks and the last blocks, and estimates the rest."""
    blocks = min(workload.shape.num_blocks, workload.skipping.probe_blocks + workload.skipping.last_blocks)
    parts = _run_blocks(workload, plan, speeds, blocks)
    return add((parts, 1), (_around(workload, plan, speeds, _CACHE_PASSES_SKIPPED, agrees=True), 1))


def lanes_of(workload: Workload, degrees: Degrees) -> int:
    """Guidance branches that one rank computes."""
    return max(1, workload.branches // degrees.cfg)


def _run_blocks(workload: Workload, plan: Plan, speeds: Speeds, blocks: int) -> Parts:
    """That many blocks of all lanes of one rank."""
    if not blocks:
        return parts_of()
    lanes = lanes_of(workload, plan.degrees)
    one = _one_block(workload, plan, slower(speeds, min(plan.cluster.per_node, plan.degrees.world_size)))
    return add((one, lanes * blocks))


def _one_block(workload: Workload, plan: Plan, speeds: Speeds) -> Parts:
    """The mean over the model's blocks, of one lane."""
    shape, degrees, cluster = workload.shape, plan.degrees, plan.cluster
    share = share_of(shape, workload.lane, degrees)
    blocks = shape.num_blocks
    flops = block_flops(shape, workload.lane, share, range(blocks))
    attending = flops["attention"] + flops["cross_attention"]
    multiplied = sum(flops.values()) - attending
    tensor = (share.tokens + (share.text if shape.joint else 0)) * shape.dim * plan.dtype_bytes
    parts = parts_of(
        products=multiplied / blocks / speeds.product_flops * (1 + speeds.saturation_tokens / share.tokens),
        attention=attending / blocks / speeds.attention_flops,
        elementwise=_passes(degrees, speeds) * tensor / speeds.memory_bandwidth,
    )
    working = sum(parts.values())
    if speeds.overlaps:
        parts["launches"] = max(0.0, speeds.block_seconds - working)
    else:
        parts["launches"] = speeds.block_seconds
    axes = sequence_axes(degrees, cluster.per_node)
    sent = block_traffic(shape, share, degrees, plan.dtype_bytes)
    if degrees.ulysses > 1:  # query, key, value and output one after the other
        parts["ulysses"] = 4 * all_to_all_seconds(sent.all_to_all / 4, axes["ulysses"], cluster)
    if degrees.ring > 1:
        gathering = gather_seconds(sent.ring, axes["ring"], cluster)  # a rank receives what it sends
        hidden = parts["attention"] / degrees.ring if speeds.overlaps else 0.0
        parts["ring"] = max(0.0, gathering - hidden)
    weights = workload.transformer_parameters / blocks * plan.weight_bytes
    if plan.shard_weights and degrees.replica_size > 1:
        ranks = degrees.replica_size
        gathering = gather_seconds(weights * (ranks - 1) / ranks, axes["replica"], cluster)
        parts["weights"] = max(0.0, gathering - working) if speeds.overlaps else gathering
    if plan.software.streamed_blocks:
        parts["weights"] += max(0.0, weights / speeds.host_bandwidth - sum(parts.values()))
    return parts


def _passes(degrees: Degrees, speeds: Speeds) -> float:
    """Times that a block reads or writes [tokens, dim] between its products."""
    exchanged = speeds.exchange_passes if degrees.ulysses > 1 else 0.0
    return speeds.elementwise_passes + exchanged + _MERGE_PASSES * (degrees.ring - 1)


def _around(workload: Workload, plan: Plan, speeds: Speeds, cache_passes: int, *, agrees: bool) -> Parts:
    """What a step costs beside its blocks."""
    shape, degrees, cluster = workload.shape, plan.degrees, plan.cluster
    lanes = lanes_of(workload, degrees)
    own = slower(speeds, min(cluster.per_node, degrees.world_size))
    share = share_of(shape, workload.lane, degrees)
    axes = sequence_axes(degrees, cluster.per_node)
    tensor = share.tokens * shape.dim * plan.dtype_bytes
    head = gather_bytes(shape, workload.lane, degrees, plan.dtype_bytes)
    gathering = lanes * gather_seconds(head, axes["sequence"], cluster)
    exchanged = lanes * guidance_bytes(shape, workload.lane, plan.dtype_bytes)
    parts = parts_of(
        step=own.step_seconds + lanes * (own.lane_seconds + head_flops(shape, share)["head"] / own.product_flops),
        cache=lanes * cache_passes * tensor / own.memory_bandwidth,
        gather=(gathering + gather_seconds(exchanged, axes["cfg"], cluster)),
    )
    if plan.software.token_modulation:
        rows = workload.lane.tokens  # of the whole sequence, on every rank
        parts["products"] = lanes * rows * 12 * shape.dim**2 / own.single_flops
        parts["elementwise"] = lanes * _TOKEN_MODULATION_PASSES * shape.num_blocks * tensor / own.memory_bandwidth
    if agrees and degrees.replica_size > 1:
        crossing = axes["replica"].nodes > 1
        link = cluster.between if crossing else cluster.inside
        parts["agreement"] = speeds.agreement_seconds + (2 * link.latency_seconds if crossing else 0.0)
    return parts
