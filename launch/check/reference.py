"""The stored result of the small model, made on a CPU in float32: `python -m launch.check.reference` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launch.check.video import Actions, Made

if TYPE_CHECKING:
    from torch import Tensor

FILE = Path(__file__).with_name("reference.safetensors")


def read_reference(file: Path = FILE) -> tuple[Tensor, Actions]:
    """The latents, float32 [1, channels, frames, height, width], and what was done at each step."""
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        actions = json.loads(content.metadata()["actions"])
        return content.get_tensor("latents"), [tuple(each) for each in actions]


def write_reference(made: Made, file: Path = FILE) -> None:
    """Store a result."""
    from safetensors.torch import save_file

    save_file({"latents": made.latents.contiguous()}, file, metadata={"actions": json.dumps(made.actions)})


def _main() -> None:
    from launch.check.job import CheckOptions, prepare_check
    from launch.check.site import Site
    from launch.check.video import config_for, loaded, make, request_of
    from parallel.place import Place

    job = prepare_check(CheckOptions(), Place(1))
    config = config_for(Site(job.config, "cpu", 0, 1, 1, Path()))
    with loaded(config) as engine:
        write_reference(make(engine, request_of(config)))


if __name__ == "__main__":
    _main()
