"""Seconds of a video outside its denoise steps: text, images, copies of weights, decoding, writing; and of loading."""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.families import WAN
from launch.planner.memory import others_stay, swaps_experts
from launch.planner.parts import Parts, parts_of
from launch.planner.software import Speeds, slower
from launch.planner.steps import Plan
from launch.planner.workload import Workload

_CONVOLUTIONS = 33  # of 3 x 3 in the decoder of Wan's VAE
_TILE_STRIDE, _CHUNK_STRIDE = 192, 3  # pixels from one tile to the next, and latent frames: HunyuanVideo's
_LOAD_BANDWIDTH = 1e9  # bytes a second: reading, casting and copying by one rank
_IMPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Decoder:
    """A published VAE; FLOPs and bytes of memory traffic in float32 for a pixel of a finished frame, counted by
    torch.utils.flop_counter and a dispatch mode on the meta device."""

    flops: float
    traffic_bytes: float
    encode_flops: float = 0.0  # for a pixel of a video that conditions an image-to-video model


_WAN_VAE = Decoder(8.45e6, 127e3, 5.0e6)
_TI2V_VAE = Decoder(18.4e6, 109e3, 3.5e6)
_HUNYUAN_VAE = Decoder(40.0e6, 190e3)  # in overlapping tiles, each of which decodes some pixels twice
_HUNYUAN_15_VAE = Decoder(41.2e6, 190e3)


def find_decoder(workload: Workload) -> Decoder:
    """The VAE of the workload's model; one that is not published counts as its family's."""
    if workload.shape.kind == "wan":
        return _TI2V_VAE if workload.facts.vae_scale_spatial == 16 else _WAN_VAE
    return _HUNYUAN_VAE if workload.shape.kind == "hunyuan_video" else _HUNYUAN_15_VAE


def decode_share(workload: Workload, plan: Plan) -> float:
    """The part of a video that one rank decodes: with Wan a strip of whole latent rows, else its tiles."""
    if not plan.software.decode_shared:
        return 1.0
    _, frames, rows, columns = workload.facts.latents_shape(*workload.model.video)
    if workload.facts.family == WAN:
        parts = rows
    else:
        stride = _TILE_STRIDE // workload.facts.vae_scale_spatial
        parts = -(-rows // stride) * -(-columns // stride)
        if workload.shape.kind == "hunyuan_video":
            parts *= -(-frames // _CHUNK_STRIDE)
    return -(-parts // plan.degrees.replica_size) / parts


def around_denoising(workload: Workload, plan: Plan, speeds: Speeds) -> Parts:
    """Of one video, on the rank that takes longest."""
    decoder, share = find_decoder(workload), decode_share(workload, plan)
    vae_bytes = 1.0 if plan.software.vae == "float32" else 0.5
    copies_back = plan.software.copies_back
    own = slower(speeds, min(plan.cluster.per_node, plan.degrees.world_size))
    per_pixel = decoder.flops / own.convolution_flops
    per_pixel += vae_bytes * decoder.traffic_bytes / own.memory_bandwidth
    parts = parts_of(
        encode=speeds.encode_seconds,
        decode=share * workload.pixels * per_pixel,
        write=speeds.write_seconds + workload.pixels * speeds.write_pixel_seconds,
        host_copies=host_copied_bytes(workload, plan)
        / (speeds.copy_bandwidth if copies_back else speeds.host_bandwidth),
    )
    if share < 1 and workload.facts.family == WAN:
        parts["decode"] += _halo_exchanges(workload) * plan.cluster.inside.latency_seconds
    if workload.facts.image_input == "channels" and decoder.encode_flops:
        ratio = decoder.encode_flops / decoder.flops
        parts["encode"] += ratio * parts["decode"]
    return parts


def _halo_exchanges(workload: Workload) -> int:
    """Rows that neighbours exchange: before each 3 x 3 convolution, for one latent frame after the other."""
    return _CONVOLUTIONS * workload.facts.latents_shape(*workload.model.video)[1]


def host_copied_bytes(workload: Workload, plan: Plan) -> float:
    """Weights that move between host and card for each video: encoders where they do not stay, and the experts where
    they do not fit together, each of which comes once. Nothing goes back, unless the program copies weights back."""
    if plan.cluster.is_cpu:
        return 0.0
    ways = 2.0 if plan.software.copies_back else 1.0
    moved = 0.0 if others_stay(workload, plan) else ways * plan.dtype_bytes * workload.encoder_parameters
    if plan.shard_weights and workload.facts.family.shards_text_encoder:
        moved /= plan.degrees.replica_size
    if swaps_experts(workload, plan):
        moved += ways * workload.experts * plan.weight_bytes * workload.transformer_parameters
    return moved


def start_seconds(workload: Workload) -> float:
    """From the start of the processes to the first video."""
    return _IMPORT_SECONDS + 2 * sum(workload.model.parameters.values()) / _LOAD_BANDWIDTH
