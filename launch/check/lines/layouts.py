"""The small model on all ranks in one layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launch.check.finding import Finding, holds, judged
from launch.check.limits import LAYOUT_ERROR
from launch.check.site import Site
from launch.check.video import Actions, config_for, first_difference, loaded, make, relative_error, request_of
from parallel.degrees import Degrees

if TYPE_CHECKING:
    from torch import Tensor


def layout(site: Site, degrees: Degrees, shared: bool) -> Finding:
    """Audited: every rank holds the same decisions and latents after each step. The result is that of one rank: its
    decisions and, within the rounding of sums, its latents."""
    config = config_for(site, degrees, audit=True, shared=shared)
    with loaded(config) as engine:
        made = make(engine, request_of(config))
        first = engine.model.is_first
    if not first:
        return holds("")
    expected, actions = _one_rank(site)
    error, limit = relative_error(made.latents, expected), LAYOUT_ERROR.on(site.kind)
    short = []
    if difference := first_difference(made.actions, actions):
        short.append(f"another decision than on one rank: {difference}")
    if not error <= limit:
        short.append(f"the latents are {error:.1e} from those of one rank, above {limit:g}")
    return judged(short, f"latents {error:.1e} from one rank, the same decisions", f"at most {limit:g}, audited")


def _one_rank(site: Site) -> tuple[Tensor, Actions]:
    """The result of one rank of this machine; made once for all layouts."""
    from launch.check.reference import read_reference, write_reference

    file: Path = site.folder / f"one-rank-{site.rank}.safetensors"
    if not file.exists():
        config = config_for(site)
        with loaded(config) as engine:
            write_reference(make(engine, request_of(config)), file)
    return read_reference(file)
