"""Runs whose weights wait in the host's memory, as on a GPU."""

from pathlib import Path

from engine.config import Config
from engine.cost.host import Copies, copied_bytes
from engine.cost.job import job_of
from engine.models.facts import read_facts
from parallel.degrees import Degrees
from tests.support.small_model import tiny_config


def just_enough(config: Config, degrees: Degrees, copies: Copies) -> float:
    """The least memory of a machine on which its ranks have such copies."""
    job = job_of(config, read_facts(config.model.path, config.model.single_files), degrees, on_card=True)
    return copied_bytes(job, 24e9, degrees.world_size, copies) / 0.9 + 1


def run_options(model: Path) -> list[str]:
    """Of a short run whose transformers wait in turn."""
    return [f"--set={setting}" for setting in (*_settings(model), "parallel.cfg=2")]


def memory_of_run(model: Path, copies: Copies) -> dict[str, str]:
    """The environment of such a run on two ranks, on a machine that has just room for such copies."""
    size = just_enough(tiny_config(*_settings(model)), Degrees(cfg=2), copies)
    return {"LOCKSTEP_HOST_BYTES": str(size)}


def _settings(model: Path) -> list[str]:
    return [
        f"model.path={model}",
        "model.dtype=float32",
        "runtime.offload=experts",
        "cache.method=none",
        "sampling.steps=3",
    ]


def tells_of_sharing(err: str) -> bool:
    return "the 2 ranks of a machine share one copy of" in err
