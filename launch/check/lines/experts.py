"""A model of two transformers, as Wan 2.2 A14B is: they take turns, and do so again in the next request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from launch.check.finding import Finding, judged
from launch.check.limits import GROWN_BYTES, LATENTS_ERROR
from launch.check.reference import read_reference
from launch.check.site import Site
from launch.check.video import config_for, first_difference, loaded, make, relative_error, request_of
from parallel.degrees import Degrees

_BOUNDARY = 0.875
_NOISE = 0.05


def two_experts(site: Site) -> Finding:
    """The small model with a second transformer: three requests in a row on all ranks, of which the last is the first
    one again. On a GPU the transformer that does not run waits on the host (`runtime.offload: experts`)."""
    config = config_for(site, Degrees(ring=site.ranks), audit=site.ranks > 1)
    folder = _with_a_second(Path(config.model.path), site.folder / f"two-experts-{site.rank}")
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(folder)})})
    if site.kind == "cuda":
        config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"offload": "experts"})})
    with loaded(config) as engine:
        request = request_of(config)
        first = make(engine, request)
        held = _held_bytes(site)
        make(engine, request_of(config, "a green square moving up on a gray background", seed=1))
        again = make(engine, request)
        grown = _held_bytes(site) - held
    short = []
    if first.sha256 != again.sha256:
        error = relative_error(again.latents, first.latents)
        said = first_difference(again.actions, first.actions)
        short.append(f"after another request the latents differ by {error:.1e}" + (f": {said}" if said else ""))
    alone = relative_error(first.latents, read_reference()[0])
    if alone <= LATENTS_ERROR.on(site.kind):
        short.append(
            f"the latents are {alone:.1e} from those of the first transformer alone: the second one had no turn"
        )
    if grown > (limit := GROWN_BYTES.on(site.kind)):
        short.append(f"a request more holds {grown / 1e6:.0f} MB more, above {limit / 1e6:.0f}: {GROWN_BYTES.reason}")
    figure = f"sha256 {again.sha256[:12]}, {alone:.1e} from the first transformer alone"
    if site.kind == "cuda":
        figure += f", {held / 1e6:.0f} MB held, {grown / 1e6:+.0f} MB after two more requests"
    return judged(short, figure, "equal bits after another request, and both transformers had their turns")


def _with_a_second(model: Path, folder: Path) -> Path:
    """A copy of the small model with another transformer for low noise, whose weights differ by 5%."""
    import torch
    from safetensors.torch import load_file, save_file

    for part in ("scheduler", "text_encoder", "tokenizer", "transformer", "vae"):
        shutil.copytree(model / part, folder / part)
    shutil.copytree(model / "transformer", folder / "transformer_2")
    draw = torch.Generator().manual_seed(0)
    for file in (folder / "transformer_2").glob("*.safetensors"):
        weights = load_file(file)
        for name, weight in weights.items():
            weights[name] = weight * (1 + _NOISE * torch.randn(weight.shape, generator=draw)).to(weight.dtype)
        save_file(weights, file, metadata={"format": "pt"})
    index = json.loads((model / "model_index.json").read_text())
    index |= {"transformer_2": index["transformer"], "boundary_ratio": _BOUNDARY}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _held_bytes(site: Site) -> int:
    """Of tensors on the card; 0 on the CPU, where nobody counts them."""
    if site.kind != "cuda":
        return 0
    import torch

    torch.cuda.synchronize(site.device)
    return int(torch.cuda.memory_allocated(site.device))
