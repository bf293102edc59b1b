"""The small model that ships, as tests run it: few steps, in float32 on the CPU."""

from pathlib import Path

from engine.config import Config
from engine.config_file import load_config

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "tiny-wan.yaml"
PROMPT = "a red circle moving right on a navy background"


def tiny_config(*overrides: str) -> Config:
    """The shipped small model's configuration, with few steps, in float32 on the CPU."""
    return load_config(CONFIG, ["sampling.steps=12", "model.dtype=float32", "runtime.device=cpu", *overrides])
