"""Whether a model can make videos of a size, whether its extra weights fit, and whether there are devices for it."""

from __future__ import annotations

from dataclasses import replace

from engine.config import Config, SamplingConfig
from engine.errors import InvalidInput, MachineUnfit
from engine.models.facts import ModelFacts
from parallel.kernels import Found, KernelName, Site, choose_kernel


def check_added_weights(config: Config, facts: ModelFacts) -> list[str]:
    """Refuse single files and adapters that do not fit into the model; reads no more than their names and sizes.

    Returns:
        A line for the user on each part of a file that is not used.

    Raises:
        InvalidInput: one sentence that names the file.
    """
    notes: list[str] = []
    if config.model.single_files:
        from engine.components.single_files import check_fit

        notes += check_fit(config, facts)
    if config.model.loras:
        from engine.components.loras.adding import lora_notes, plan_loras

        notes += lora_notes(plan_loras(config, facts))
    return notes


def check_size(sampling: SamplingConfig, facts: ModelFacts) -> None:
    """Refuse a size that the model cannot make.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    scale = facts.vae_scale_temporal
    # the diffusers pipeline rounds such values silently; a person who asked for 16 frames should hear of it
    if (sampling.frames - 1) % scale:
        allowed = _neighbours(sampling.frames, scale, offset=1)
        raise InvalidInput(f"sampling.frames is {sampling.frames}, but this model needs {scale}n+1: use {allowed}.")
    if sampling.frames < facts.family.min_frames:
        raise InvalidInput(
            f"sampling.frames is {sampling.frames}, but {facts.family.name} makes what comes after the image: "
            f"use {facts.family.min_frames} or more."
        )
    for name, size, patch in (
        ("height", sampling.height, facts.patch_size[1]),
        ("width", sampling.width, facts.patch_size[2]),
    ):
        multiple = facts.vae_scale_spatial * patch
        if size % multiple:
            raise InvalidInput(
                f"sampling.{name} is {size}, but this model needs a multiple of {multiple}: "
                f"use {_neighbours(size, multiple)}."
            )
        if size % 2:
            raise InvalidInput(
                f"sampling.{name} is {size}, which no H.264 file has: use {size - 1 or 2} or {size + 1}."
            )
    grid = facts.token_grid(sampling.frames, sampling.height, sampling.width)
    for name, tokens in zip(("frames", "height", "width"), grid, strict=True):
        if facts.rope_max_seq_len is not None and tokens > facts.rope_max_seq_len:
            raise InvalidInput(
                f"sampling.{name} is {getattr(sampling, name)}, which makes {tokens} positions, but this model "
                f"knows {facts.rope_max_seq_len}: ask for less."
            )


def _neighbours(value: int, multiple: int, offset: int = 0) -> str:
    below = (value - offset) // multiple * multiple + offset
    above = below + multiple
    return f"{below} or {above}" if below > 0 else str(above)


def check_device(config: Config, local_ranks: int) -> None:
    """Refuse a device that this machine has not, or has not enough of, and an attention kernel that cannot run on it.

    What a card cannot run is seen when the rank that has it loads.

    Raises:
        InvalidInput: one sentence that names the value and what to do instead.
    """
    runtime = config.runtime
    dtype = "bfloat16" if config.model.dtype == "auto" else config.model.dtype  # on the CPU no kernel needs it
    device = "cpu" if runtime.device == "cpu" else "cuda"
    site = Site(device, dtype, config.parallel.degrees.ring, deterministic=runtime.deterministic)
    try:
        choose_kernel(runtime.attention, site, Found())
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    if runtime.device == "cpu":
        return
    import torch  # seconds: only now, when nothing else is wrong

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if runtime.device == "cuda" and not devices:
        raise MachineUnfit("runtime.device is cuda, but torch finds no CUDA device here: use auto or cpu.")
    if 0 < devices < local_ranks:
        raise MachineUnfit(
            f"{local_ranks} ranks would share {devices} CUDA devices on this machine, and each rank needs its own: "
            f"start at most {devices}, or use runtime.device=cpu."
        )
    if runtime.attention != "auto":
        _check_installed(runtime.attention, replace(site, device="cuda" if devices else "cpu"))


def _check_installed(kernel: KernelName, site: Site) -> None:
    from parallel.found_kernels import find_kernels  # imports the kernel's package, which takes seconds

    try:
        choose_kernel(kernel, site, find_kernels(site.device, [kernel]))
    except ValueError as error:
        raise MachineUnfit(str(error)) from None
