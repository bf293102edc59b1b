"""What the engine is compared with: diffusers' own pipelines, for the same weights, prompts, images and seed."""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
)
from diffusers.utils import load_image
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from engine.config import Config
from engine.request import GenerationRequest


def pipeline_video(config: Config, request: GenerationRequest, output_type: str = "latent") -> Tensor:
    """The final latents [samples, channels, frames, height, width]; with output_type "np" the decoded frames
    [samples, frames, height, width, 3] in [0, 1]."""
    index = json.loads((Path(config.model.path) / "model_index.json").read_text())
    sampling = request.sampling
    pipeline, options = _ASKED[index["_class_name"]](config, request)
    pipeline.set_progress_bar_config(disable=True)
    kept: list[Tensor] = []

    def keep(pipeline: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept.append(tensors["latents"])
        return {}

    if isinstance(pipeline, HunyuanVideoImageToVideoPipeline):  # which hands latents out less the frame that is cut off
        options["callback_on_step_end"] = keep
    options |= {
        "prompt": list(request.prompts),
        "num_frames": sampling.frames,
        "num_inference_steps": sampling.steps,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
        "output_type": output_type,
    }
    settings = {
        "height": sampling.height,
        "width": sampling.width,
        "guidance_scale": sampling.guidance,
        "max_sequence_length": sampling.max_sequence_length,
    }
    known = inspect.signature(pipeline.__call__).parameters  # HunyuanVideo 1.5 is told some in other ways
    video = pipeline(**options, **{name: value for name, value in settings.items() if name in known}).frames
    return kept[-1] if kept and output_type == "latent" else torch.as_tensor(video)


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


def _ask_hunyuan_video_image(config: Config, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    """A model that is not distilled is guided by a second branch; with several prompts the pipeline cannot do that."""
    path, guidance, count = config.model.path, request.sampling.guidance, len(request.prompts)
    # the class that the folder names would cut words as Llama 2 does
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, subfolder="tokenizer")
    pipeline = HunyuanVideoImageToVideoPipeline.from_pretrained(path, tokenizer=tokenizer)
    shift = request.sampling.shift
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=shift)
    options = {"image": [load_image(str(request.image))] * count}
    if not pipeline.transformer.config.guidance_embeds and guidance > 1:
        options |= {"negative_prompt": request.negative_prompt, "true_cfg_scale": guidance}
    return pipeline, options


def _ask_hunyuan_video15(config: Config, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    sampling, options = request.sampling, {}
    kind = HunyuanVideo15Pipeline if request.image is None else HunyuanVideo15ImageToVideoPipeline
    pipeline = kind.from_pretrained(config.model.path)
    if request.image is not None:
        options["image"] = load_image(str(request.image))  # turned upright
        # the image's shape would choose the size
        pipeline.video_processor.calculate_default_height_width = lambda **_: (sampling.height, sampling.width)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, shift=sampling.shift)
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=sampling.guidance)
    pipeline.tokenizer_max_length = sampling.max_sequence_length
    negative = [request.negative_prompt] * len(request.prompts) if request.negative_prompt else None
    return pipeline, {"negative_prompt": negative, **options}


# by the pipeline that model_index.json names: what is asked, and how
_ASKED = {
    "WanPipeline": _ask_wan,
    "WanImageToVideoPipeline": _ask_wan,
    "HunyuanVideoPipeline": _ask_hunyuan_video,
    "HunyuanVideoImageToVideoPipeline": _ask_hunyuan_video_image,
    "HunyuanVideo15Pipeline": _ask_hunyuan_video15,
    "HunyuanVideo15ImageToVideoPipeline": _ask_hunyuan_video15,
}
