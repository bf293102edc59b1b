"""How cuDNN runs convolutions, as the configuration says."""

import torch

from engine.config import RuntimeConfig


def set_convolutions(runtime: RuntimeConfig) -> None:
    """For the whole process: it is torch that keeps these settings. They do nothing on the CPU."""
    torch.backends.cudnn.allow_tf32 = runtime.tf32
    torch.backends.cudnn.benchmark = runtime.cudnn_benchmark
