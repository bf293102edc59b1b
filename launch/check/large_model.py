"""A few layers of a large model with random weights, sized for the device at hand, and steps of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.cost.shape import TransformerShape, shape_of_model
from engine.models.catalog import CATALOG, PublishedModel

if TYPE_CHECKING:
    import torch

    from engine.models.adapter import Adapter
    from parallel.ranks import Ranks

_NAME = "Wan 2.1 T2V 14B"
_LAYERS = 4
_TEXT_TOKENS = 512
# a card that holds less takes the 1.3B model's width
_LARGE_BYTES = 44e9


@dataclass(frozen=True)
class LargeModel:
    """A published model with few layers, for a video of a size.

    published: the row of the catalog, with other sizes.
    """

    published: PublishedModel
    video: tuple[int, int, int]
    text_tokens: int
    dtype: torch.dtype

    @cached_property
    def shape(self) -> TransformerShape:
        """For counting FLOPs."""
        return shape_of_model(self.published)

    @property
    def tokens(self) -> int:
        """Of the video."""
        frames, rows, columns = self.published.facts.token_grid(*self.video)
        return frames * rows * columns

    @property
    def latents_shape(self) -> tuple[int, ...]:
        """[1, channels, frames, height, width]"""
        return (1, *self.published.facts.latents_shape(*self.video))

    def __str__(self) -> str:
        sizes = self.published.transformer
        return f"{sizes['num_layers']} layers of width {self.published.dim}, {self.tokens} tokens"

    def transformer(self, device: torch.device) -> Any:
        """With random weights, on the device."""
        import torch
        from diffusers import WanTransformer3DModel

        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(device):
                return WanTransformer3DModel(**self.published.transformer).eval()
        finally:
            torch.set_default_dtype(before)


def large_model(device: torch.device) -> LargeModel:
    """Wan 14B at 720p with 81 frames on a GPU, with 1.3B's width and 480p where the card is small; on the CPU a narrow
    one with a small video."""
    import torch

    row = next(model for model in CATALOG if model.name == _NAME)
    if device.type == "cpu":
        sizes = {"num_attention_heads": 4, "ffn_dim": 1408, "num_layers": _LAYERS, "text_dim": 256}
        return LargeModel(_resized(row, sizes), (17, 144, 128), 16, torch.float32)
    if torch.cuda.get_device_properties(device).total_memory < _LARGE_BYTES:
        sizes = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": _LAYERS}
        return LargeModel(_resized(row, sizes), (81, 480, 832), _TEXT_TOKENS, torch.bfloat16)
    return LargeModel(_resized(row, {"num_layers": _LAYERS}), (81, 720, 1280), _TEXT_TOKENS, torch.bfloat16)


def _resized(row: PublishedModel, sizes: dict[str, int]) -> PublishedModel:
    return replace(row, transformer={**row.transformer, **sizes})


@dataclass(frozen=True)
class Step:
    """One denoise step: whether it was skipped, and the device's seconds."""

    skipped: bool
    seconds: float


class Steps:
    """Denoise steps of both guidance branches of the large model, with DiCache: the first half computed, then skipped,
    whatever the values are."""

    def __init__(self, model: LargeModel, adapter: Adapter, ranks: Ranks, steps: int) -> None:
        import torch

        from dicache.config import CacheConfig
        from dicache.controller import Controller
        from engine.denoise.guidance import all_lanes, own_lanes
        from engine.denoise.predictor import LaneWork, VelocityPredictor
        from engine.execution.loaded import Expert
        from engine.execution.timing import Stopwatch
        from parallel.agreement import Agreement
        from parallel.meter import CollectiveMeter
        from parallel.sharding import ShardedSequence, plan_shards

        device = ranks.device
        self._steps = steps
        self._device = device
        self._latents = torch.randn(model.latents_shape, device=device)
        shards, meter = plan_shards(adapter.num_tokens(self._latents.shape), ranks), CollectiveMeter()
        lanes = all_lanes(1, 2)
        own = own_lanes(lanes, ranks)
        width = model.published.transformer.get("text_dim", 4096)
        encoded = [{"prompt_embeds": torch.randn(1, model.text_tokens, width, device=device)} for _ in own]
        conditions = dict(zip(own, adapter.conditions(encoded, self._latents, shards), strict=True))
        cache = CacheConfig(method="dicache", threshold=1e9, warmup_ratio=0.5)
        self._predictor = VelocityPredictor(
            Expert(adapter, None, None),
            ShardedSequence(ranks, shards, meter),
            LaneWork(lanes, conditions, 5.0),
            Controller(cache, lanes, steps, adapter.num_blocks),
            Agreement(ranks, meter),
            Stopwatch(device),
        )

    def run(self) -> Sequence[Step]:
        """All steps, one after the other."""
        import torch

        from dicache.controller import Step as Place

        done = []
        with torch.inference_mode():
            for index in range(self._steps):
                noise = 1 - index / self._steps
                place = Place(index, noise, noise - 1 / self._steps)
                self._wait()
                started = time.perf_counter()
                timestep = torch.tensor(1000.0 * noise, device=self._device)
                plans = self._predictor.predict(self._latents * noise, timestep, place).plans
                self._wait()
                skipped = all(plan.is_estimated for plan in plans.values())
                done.append(Step(skipped, time.perf_counter() - started))
        return done

    def _wait(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
