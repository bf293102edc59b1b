"""The Wan VAE over all ranks of a model replica: each computes its own strip of rows of every frame, exactly.

A rank holds some rows of the latents and, at every resolution, the rows of the frame at the same height, so up- and
downsampling never cross a boundary. Layers that read beyond a strip are wrapped from outside:

- a convolution over three rows gets its neighbours' nearest rows (its halo), and zeros only at the edge of the frame;
- the padding before a downsampling convolution, whose window starts at its own row, gets the row below;
- attention, which reads all positions of a frame, gathers keys and values.

Norms, activations, resampling and shortcuts stay inside a row of the latents. So the result differs from that of one
rank only by the rounding of kernels that run on other shapes: tests allow 1e-5 of the largest value in float32 and
1e-12 in float64. (By default torch lets CUDA convolutions round their input to TF32: rounding is coarser there, on one
rank as on many.)

Bytes sent: a convolution sends each neighbour one row, (frames + cached frames) × channels × width numbers, and
attention sends every other rank this rank's keys and values. For the published Wan 2.1 VAE at 1280×720 over 8 ranks in
float32 that is, for each latent frame decoded (4 frames, 31 TFLOP over all ranks), 33 exchanges of 65 MB in all with
each neighbour, and one gather for which a rank sends 38 MB. The finished frames are gathered as uint8, 1.4 MB a rank.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AvgDown3D,
    DupUp3D,
    WanAttentionBlock,
    WanCausalConv3d,
    WanRMS_norm,
    WanUpsample,
)
from torch import Tensor, nn

from parallel.diffusers_private import causal_padding
from parallel.ranks import Ranks
from parallel.rows import RowExchange


def spread_rows(vae: AutoencoderKLWan, ranks: Ranks) -> RowExchange:
    """Wrap the layers of a Wan VAE so that every rank of the replica computes its own rows. No weight changes, and with
    one rank nothing does.

    Returns:
        The exchange that the wrapped layers use; call its ``begin`` before each video.

    Raises:
        ValueError: the VAE has a layer that is not known to stay inside its row.
    """
    exchange = RowExchange(ranks)
    if ranks.replica_size > 1:
        for name, module in list(vae.named_modules()):
            wrapper = _wrapper(module, exchange)
            if wrapper is not None:
                vae.set_submodule(name, wrapper)
    return exchange


class StripCausalConv3d(nn.Module):
    """A causal convolution over three rows of one strip; called as diffusers calls the wrapped convolution."""

    def __init__(self, conv: WanCausalConv3d, exchange: RowExchange) -> None:
        super().__init__()
        self.conv = conv
        self._exchange = exchange

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """[batch, channels, frames, rows, width] → [batch, channels, frames, rows, width].

        Args:
            cache_x: the strip's last input frames before ``x``.
        """
        if self._exchange.is_alone:
            alone: Tensor = self.conv(x, cache_x)
            return alone
        left, right, _, _, frames_before, _ = causal_padding(self.conv)  # diffusers pads outside of the convolution
        if cache_x is not None:
            # the halos of the cached frames are sent again: kept here, they would outlive the request
            x = torch.cat([cache_x, x], dim=2)
            frames_before -= cache_x.shape[2]
        x = F.pad(self._exchange.extend(x), (left, right, 0, 0, frames_before, 0))
        return F.conv3d(x, self.conv.weight, self.conv.bias, self.conv.stride)


class StripConv2d(nn.Module):
    """A convolution over three rows of one strip of each frame."""

    def __init__(self, conv: nn.Conv2d, exchange: RowExchange) -> None:
        super().__init__()
        self.conv = conv
        self._exchange = exchange

    def forward(self, x: Tensor) -> Tensor:
        """[frames, channels, rows, width] → [frames, channels, rows, width]"""
        if self._exchange.is_alone:
            alone: Tensor = self.conv(x)
            return alone
        padding = (0, int(self.conv.padding[1]))
        return F.conv2d(self._exchange.extend(x), self.conv.weight, self.conv.bias, self.conv.stride, padding)


class StripPadding(nn.Module):
    """Padding of a strip: with the neighbours' rows, and with zeros at the edge of the frame."""

    def __init__(self, padding: nn.ZeroPad2d, exchange: RowExchange) -> None:
        super().__init__()
        self._padding = padding.padding
        self._exchange = exchange

    def forward(self, x: Tensor) -> Tensor:
        """[frames, channels, rows, width] → [frames, channels, rows + top + bottom, width + left + right]"""
        left, right, top, bottom = self._padding
        return F.pad(self._exchange.extend(x, above=top > 0, below=bottom > 0), (left, right))


class StripAttention(nn.Module):
    """Single-head attention inside each frame: from a strip's queries to the keys and values of all strips."""

    def __init__(self, block: WanAttentionBlock, exchange: RowExchange) -> None:
        super().__init__()
        self.block = block
        self._exchange = exchange

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, frames, rows, width] → [batch, channels, frames, rows, width]"""
        if self._exchange.is_alone:
            alone: Tensor = self.block(x)
            return alone
        frames = x.transpose(1, 2)
        batch_and_time, channels = frames.shape[:2], frames.shape[2]
        qkv = self.block.to_qkv(self.block.norm(frames.flatten(0, 1)))
        query, key_value = qkv.split([channels, 2 * channels], dim=1)
        key, value = self._exchange.gather_for_holders("vae_attention", key_value).chunk(2, dim=1)
        out = F.scaled_dot_product_attention(_as_tokens(query), _as_tokens(key), _as_tokens(value))
        out = self.block.proj(out.transpose(-1, -2).reshape(query.shape))
        return x + out.unflatten(0, batch_and_time).transpose(1, 2)


def _as_tokens(picture: Tensor) -> Tensor:
    """[frames, channels, rows, width] → [frames, 1, rows × width, channels], contiguous as kernels want it."""
    return picture.flatten(2).transpose(1, 2)[:, None].contiguous()


def _wrapper(module: nn.Module, exchange: RowExchange) -> nn.Module | None:
    """The wrapper for a layer that reads beyond its strip; None for one that does not.

    Raises:
        ValueError: it is not known whether the layer does.
    """
    match module:
        case WanAttentionBlock():
            return StripAttention(module, exchange)
        case WanCausalConv3d(kernel_size=(_, 3, _)):
            return StripCausalConv3d(module, exchange)
        case nn.Conv2d(kernel_size=(3, _), padding=(1, _)):
            return StripConv2d(module, exchange)
        case nn.ZeroPad2d(padding=(_, _, 0 | 1, 0 | 1)):
            return StripPadding(module, exchange)
        case nn.Conv2d(kernel_size=(3, _), stride=(2, _), padding=(0, _)):
            return None  # in WanResample, after a ZeroPad2d that has added the row below
        case nn.Conv2d(kernel_size=(1, _)) | WanCausalConv3d(kernel_size=(_, 1, _)):
            return None
        case AvgDown3D() | DupUp3D() | WanRMS_norm() | WanUpsample() | nn.Dropout() | nn.Identity() | nn.SiLU():
            return None
    if any(True for _ in module.children()):
        return None
    raise ValueError(
        f"The VAE has a {type(module).__name__}, and it is not known whether it looks beyond its rows: use one rank."
    )
