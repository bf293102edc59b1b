"""The configuration of a run: sections of keys, each key with its type, bounds and description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dicache.config import CacheConfig
from parallel.config import ParallelConfig


class Section(BaseModel):
    """A section of keys: immutable, without unknown keys and without conversion between types."""

    # strict: `steps: "50"` or `steps: true` is a mistake in the file, not a number
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class LoraConfig(Section):
    """An adapter that is added to the weights of a transformer when they are loaded."""

    path: str = Field(min_length=1)
    scale: float = Field(1.0, ge=-100, le=100, allow_inf_nan=False)
    transformer: Literal["transformer", "transformer_2"] = "transformer"


class ModelConfig(Section):
    """Which model is run, in which dtypes, and what is added to or replaced in its weights."""

    path: str = Field(
        min_length=1,
        description="Folder of a model in the diffusers layout, or where there is no such folder its id on the "
        "Hugging Face hub (`Wan-AI/Wan2.1-T2V-1.3B-Diffusers`, with `@REVISION` for another than the latest), which is "
        "downloaded unless the hub's cache has it.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the transformer; auto is bfloat16 on CUDA and float32 elsewhere."
    )
    text_encoder_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of the text encoders; auto is the transformer's."
    )
    vae_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic of the VAE. auto is on CUDA that of diffusers' examples, float32 for Wan and float16 "
        "for HunyuanVideo, and float32 on the CPU.",
    )
    vae_tiling: bool | Literal["auto"] = Field(
        "auto",
        description="Decode and encode frames in overlapping tiles of 256×256 pixels, as diffusers does after "
        "`vae.enable_tiling()`: less memory, and seams that are blended. auto does so with HunyuanVideo, as diffusers' "
        "examples do, and with Wan where the card is too small for whole frames.",
    )
    vae_channels_last: bool = Field(
        False,
        description="Keep the VAE's convolutions in the memory format channels_last_3d, which cuDNN takes without "
        "reordering; other kernels run, which round differently.",
    )
    single_files: dict[Literal["transformer", "transformer_2", "vae"], str] = Field(
        {},
        description="Weights in their original format (Wan's and HunyuanVideo's own, or as ComfyUI repacks them): for "
        "`transformer`, `transformer_2` or `vae` the file, or the `.index.json` of several; all else is in `path`. "
        "In fp8 too, and for transformers as `.gguf`.",
    )
    quantize: Literal["none", "int8", "fp8"] = Field(
        "none",
        description="Hold the matrices of attention and feed-forward in the blocks in one byte a number, with a scale "
        "for each row (torchao, of the extra `quantize`); embeddings, norms, modulation, biases and the head stay in "
        "`dtype`. With fp8, activations are rounded to float8 as well on GPUs that multiply it (sm89 and later), in "
        "bfloat16. A transformer that is published in fp8 is kept as it is, and with none it is dequantised.",
    )
    loras: tuple[LoraConfig, ...] = Field(
        (),
        description="LoRA adapters, added to the weights in this order: `{path: FILE, scale: 1.0}` each, the file in "
        "safetensors, or its folder. With two transformers, `transformer: transformer_2` names the second (low noise).",
    )


class SamplingConfig(Section):
    """The size of the video, and how it is denoised."""

    height: int = Field(gt=0, le=16384, description="Pixels; a multiple of what the model needs.")
    width: int = Field(gt=0, le=16384, description="Pixels; a multiple of what the model needs.")
    frames: int = Field(
        gt=0,
        le=65536,
        description="4n+1: the VAE packs four frames into one. HunyuanVideo-I2V needs at least 5, and its 33-channel "
        "kind cuts the first four off the decoded video.",
    )
    steps: int = Field(50, gt=0, le=1000, description="Denoise steps; the models were trained on 1000 noise levels.")
    guidance: float = Field(
        5.0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Classifier-free guidance, with a branch for the negative prompt; 1 or less turns it off. A "
        "transformer with distilled guidance (HunyuanVideo, but not HunyuanVideo-I2V-33ch) is told the scale instead, "
        "and needs one branch.",
    )
    low_noise_guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Guidance of the second transformer (Wan 2.2 A14B, low noise); none means as of the first.",
    )
    shift: float = Field(
        3.0,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="Flow shift, in the place of the model folder's: above 1, more steps at high noise.",
    )
    fps: float = Field(
        16.0,
        ge=0.1,
        le=240,
        allow_inf_nan=False,
        description="Frames per second of the file; does not change the frames. 23.976, 29.97 and so on are the rates "
        "of television, 24000/1001 and 30000/1001.",
    )
    max_sequence_length: int = Field(
        512,
        gt=0,
        le=1000,
        description="Text tokens after padding, which counts with Wan, at most 512; HunyuanVideo takes at most 256, "
        "1.5 at most 1000, and both drop it.",
    )
    scheduler: Literal["unipc", "euler"] = Field(
        "unipc", description="unipc is Wan's own, euler is plainer; HunyuanVideo takes euler alone."
    )
    background: str = Field(
        "white",
        description="The colour that shows where a given image is transparent: a name, `#rrggbb`, `rgb(r, g, b)`, ...",
    )

    @field_validator("background", mode="before")
    @classmethod
    def _is_a_colour(cls, value: Any) -> Any:
        if value is None:  # what YAML makes of a bare #rrggbb
            raise ValueError("sampling.background is empty: put a colour that begins with # into quotes.")
        if not isinstance(value, str):
            return value  # refused as no text
        if value == cls.model_fields["background"].default:
            return value
        from PIL import ImageColor  # takes numpy with it, which commands that only ask can do without

        try:
            colour = ImageColor.getrgb(value)
        except ValueError:
            raise ValueError(
                f"sampling.background is {value[:100]!r}, which is no colour: give a name such as white, or #rrggbb."
            ) from None
        if len(colour) == 4 and colour[3] < 255:
            raise ValueError(f"sampling.background is {value!r}, which is transparent itself: give an opaque colour.")
        return value

    def guidance_of(self, expert: int) -> float:
        """The guidance of the first (0) or second (1) transformer."""
        return self.guidance if expert == 0 or self.low_noise_guidance is None else self.low_noise_guidance


class RuntimeConfig(Section):
    """Device, attention kernel, audit and limits of time."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto is CUDA where there is a device, else the CPU."
    )
    attention: Literal["auto", "sdpa", "cudnn", "flash", "flash3", "sage", "efficient"] = Field(
        "auto",
        description="The attention kernel, on one rank and on many; auto is the fastest for the card that works here "
        "(docs/attention.md). sdpa is what torch takes by itself, and all that there is on the CPU.",
    )
    compile: bool = Field(
        False,
        description="Compile each kind of transformer block once, for all sizes, with torch.compile, at the first step "
        "after loading, which may take a minute longer (within load_timeout_seconds). Needs a C++ compiler on a CPU, "
        "triton and a C compiler with CUDA (docs/compiled.md).",
    )
    deterministic: bool = Field(
        False,
        description="The same bits of latents and the same decisions in every layout, in bfloat16 too: linear layers "
        "and attention then run in a form that does not depend on how many tokens a rank holds (docs/attention.md).",
    )
    offload: Literal["auto", "none", "experts", "blocks"] = Field(
        "auto",
        description="What of the transformers waits in the host's memory on CUDA. none: nothing; experts: of Wan 2.2 "
        "A14B's two the one that does not run; blocks: every block, of which the next one comes while one runs, for "
        "cards that do not hold the model; auto is none where both experts fit, else experts.",
    )
    tf32: bool = Field(
        True,
        description="On CUDA float32 convolutions, which are the VAE's, round what they multiply to TF32 (10 bits of "
        "mantissa), as torch does by default; false is slower and exact to float32. Matrix products never use TF32.",
    )
    cudnn_benchmark: bool = Field(
        False,
        description="Let cuDNN time its convolution kernels for each new shape and keep the fastest. Ranks and runs "
        "may then take different ones, whose results differ by rounding.",
    )
    audit: bool = Field(
        False,
        description="Compare decisions and latents of all ranks bit by bit after each step, to find a faulty rank.",
    )
    metadata: bool = Field(
        True,
        description="Write the request, the model's fingerprint and versions into the video's comment tag, from which "
        "`lockstep show` and `--like` read them (docs/report.md).",
    )
    load_timeout_seconds: float = Field(
        600,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="Limit on a wait for other ranks while they load, and while they decode and write the video. A "
        "decoding whose layers each end within it may take longer.",
    )
    step_timeout_seconds: float = Field(
        300,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="The same limit on a denoise step after the first one; on a GPU on the whole step, waiting or not.",
    )
    wait_for_room_seconds: float = Field(
        3600,
        ge=0,
        le=2592000,
        allow_inf_nan=False,
        description="How long a run waits for a full, read-only or failing disk before it keeps what it has in "
        "`--fallback` and ends.",
    )


class CheckpointConfig(Section):
    """When checkpoints are written."""

    every: int = Field(
        0,
        ge=0,
        le=1000,
        description="Denoise steps between checkpoints, from which `lockstep resume` goes on; 0 writes none before the "
        "final latents.",
    )
    grace_seconds: float = Field(
        20,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="After SIGTERM a run that keeps checkpoints has this long to end its step and leave a checkpoint; "
        "0 ends it at once. Give less than the scheduler leaves it (Slurm's KillWait and torchrun: 30 s).",
    )


class Config(Section):
    """Everything that the engine is told about a run but the prompt. Immutable; paths in it are absolute.

    ``launch.jobs.config.JobConfig`` adds the sections that only launchers read.
    """

    model: ModelConfig
    sampling: SamplingConfig
    cache: CacheConfig = Field(default_factory=CacheConfig)
    parallel: ParallelConfig = Field(
        default_factory=ParallelConfig,
        description="`parallel: auto` instead of a section leaves `cfg` open as well (`cfg: null`): all degrees of a "
        "replica are then chosen for the machine, and the first rank says which and why.",
    )
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)


# a model on the Hugging Face hub: organisation/name, and perhaps a branch, tag or commit
HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


def valid_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key that a configuration may have, in dotted form: ``model.path``, ``sampling.height``, ..."""
    for name, field in model.model_fields.items():
        sections = section_models(field.annotation)
        if sections != [field.annotation]:
            yield f"{prefix}{name}"
        inner = (key for section in sections for key in valid_keys(section, f"{prefix}{name}."))
        yield from dict.fromkeys(inner)


def section_models(annotation: Any) -> list[type[BaseModel]]:
    """The models of the section that a field holds: one, or several where a name in it tells which."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return [section for part in get_args(annotation) for section in section_models(part)]
    return []
