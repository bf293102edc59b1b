"""The memory format of convolutions."""

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format


def to_channels_last(module: nn.Module) -> None:
    """Keep the weights of all convolutions channels last, in place; what they compute then has that format as well."""
    convert_conv3d_weight_memory_format(module, torch.channels_last_3d)
    convert_conv2d_weight_memory_format(module, torch.channels_last)
