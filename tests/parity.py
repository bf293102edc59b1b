"""What the engine is compared with: diffusers' own pipelines, for the same weights, prompts, images and seed."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from PIL import Image
from torch import Tensor

from engine.config import Config
from engine.request import GenerationRequest


def pipeline_video(config: Config, request: GenerationRequest, output_type: str = "latent") -> Tensor:
    """The final latents [samples, channels, frames, height, width]; with output_type "np" the decoded frames
    [samples, frames, height, width, 3] in [0, 1]."""
    index = json.loads((Path(config.model.path) / "model_index.json").read_text())
    sampling = request.sampling
    pipeline, options = _ASKED[index["_class_name"]](config, request)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        prompt=list(request.prompts),
        height=sampling.height,
        width=sampling.width,
        num_frames=sampling.frames,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        max_sequence_length=sampling.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type=output_type,
        **options,
    ).frames
    return torch.as_tensor(video)


def difference(latents: Tensor, expected: Tensor) -> float:
    """The largest one, relative to the largest value."""
    assert latents.shape == expected.shape
    return float((latents - expected).abs().max() / expected.abs().max())


def _ask_wan(config: Config, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    sampling, options = request.sampling, {}
    kind = WanPipeline
    if request.image is not None:
        kind = WanImageToVideoPipeline
        options = {
            "image": Image.open(request.image),
            "last_image": Image.open(request.last_image) if request.last_image else None,
        }
    pipeline = kind.from_pretrained(config.model.path)
    if sampling.scheduler == "unipc":
        pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=sampling.shift)
    else:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=sampling.shift)
    negative = [request.negative_prompt] * len(request.prompts)
    return pipeline, {"negative_prompt": negative, "guidance_scale_2": sampling.low_noise_guidance, **options}


def _ask_hunyuan_video(config: Config, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    pipeline = HunyuanVideoPipeline.from_pretrained(config.model.path)
    shift = request.sampling.shift
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=shift)
    return pipeline, {}


# by the pipeline that model_index.json names: what is asked, and how
_ASKED = {
    "WanPipeline": _ask_wan,
    "WanImageToVideoPipeline": _ask_wan,
    "HunyuanVideoPipeline": _ask_hunyuan_video,
}
