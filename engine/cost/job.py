"""The memory of one job: a model, a video, a layout and where weights are. Checks, loading and plans ask here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.config import Config, SamplingConfig
from engine.cost.memory import CACHED_TENSORS, Memory, Offload, VideoSize, estimate, fits
from engine.cost.quantised import dequantised_bytes, rounded_bytes, weight_bytes
from engine.cost.shape import shape_of_model
from engine.models.catalog import PublishedModel
from engine.models.facts import ModelFacts
from engine.models.published import row_of
from parallel.degrees import Degrees

_WIDE, _NARROW = 4, 2  # bytes of a number in float32, and in bfloat16 or float16


@dataclass(frozen=True)
class Job:
    """What the estimate depends on; bytes are those of a number."""

    model: PublishedModel
    video: VideoSize
    branches: int
    degrees: Degrees
    shard_weights: bool = False
    offload: Offload | Literal["auto"] = "auto"
    cached_tensors: int = CACHED_TENSORS
    block_bytes: int = _NARROW
    weight_bytes: float = _NARROW
    encoder_bytes: int = _NARROW
    vae_bytes: int | None = None
    """As the family's examples load it on a card where None."""
    vae_tiling: bool | Literal["auto"] = "auto"
    dequantised_bytes: float = 0
    """Taken at each call, for each number of a matrix."""
    rounded_bytes: float = 0
    """Taken at each call, for each number that enters a product."""

    @property
    def is_sharded(self) -> bool:
        """Whether ranks share the weights out."""
        return self.shard_weights and self.degrees.replica_size > 1

    def settled(self, card_bytes: float) -> Offload:
        """Where the transformers are on a card of that size: with ``auto`` all stay if they fit together."""
        if self.offload != "auto":
            return self.offload
        return "none" if fits(self._with("none", self._tilings[0]).peak, card_bytes) else "experts"

    def memory(self, card_bytes: float) -> Memory:
        """Of the first rank of a replica, on a card of that size. ``model.vae_tiling: auto`` cuts Wan's frames into
        tiles where strips of rows do not fit beside the transformer."""
        settled = self.settled(card_bytes)
        memory = self._with(settled, self._tilings[0])
        if not fits(memory.transformer + memory.decode, card_bytes):
            return self._with(settled, self._tilings[-1])
        return memory

    def needed(self) -> int:
        """The least that a card must hold at once, with the settings as they are."""
        offload = "experts" if self.offload == "auto" else self.offload
        return min(self._with(offload, tiled).peak for tiled in self._tilings)

    def others_stay(self, card_bytes: float) -> bool:
        """Whether encoders and VAE have room on such a card beside all else, so that they need not come again."""
        return fits(self.memory(card_bytes).peak_with_all, card_bytes)

    def fits(self, card_bytes: float) -> bool:
        """Whether a card of that size holds it, with what the estimate leaves out."""
        return fits(self.needed(), card_bytes)

    @property
    def _tilings(self) -> tuple[bool, ...]:
        """Whether frames are cut into tiles where there is room, and then where there is little."""
        if self.vae_tiling != "auto":
            return (self.vae_tiling,)
        return (False, True) if self.model.decodes_strips else (True,)

    def _with(self, offload: Offload, tiled: bool) -> Memory:
        return estimate(
            self.model,
            self.degrees,
            self.shard_weights,
            offload=offload,
            video=self.video,
            branches=self.branches,
            cached_tensors=self.cached_tensors,
            block_bytes=self.block_bytes,
            weight_bytes=self.weight_bytes,
            encoder_bytes=self.encoder_bytes,
            vae_bytes=self.vae_bytes,
            tiled=tiled,
            dequantised_bytes=self.dequantised_bytes,
            rounded_bytes=self.rounded_bytes,
        )


def job_of(
    config: Config,
    facts: ModelFacts,
    degrees: Degrees,
    *,
    on_card: bool,
    sampling: SamplingConfig | None = None,
    model: PublishedModel | None = None,
) -> Job:
    """The job that a configuration describes.

    Args:
        on_card: whether it runs on a GPU, where ``auto`` dtypes are bfloat16.
        sampling: of the request, if it is not the configuration's.
        model: the row of the configuration's model, if that was looked for.
    """
    sampling = sampling or config.sampling
    block = _bytes_of(config.model.dtype, _NARROW if on_card else _WIDE)
    row, tiling = model or row_of(config, facts), config.model.vae_tiling
    return Job(
        row,
        (sampling.frames, sampling.height, sampling.width),
        facts.num_branches(sampling.guidance),
        degrees,
        config.parallel.shard_weights,
        config.runtime.offload,
        cached_tensors=0 if config.cache.method == "none" else CACHED_TENSORS,
        block_bytes=block,
        weight_bytes=weight_bytes(config.model, shape_of_model(row), row.parameters["transformer"], block),
        encoder_bytes=_bytes_of(config.model.text_encoder_dtype, block),
        vae_bytes=_bytes_of(config.model.vae_dtype, _bytes_of(facts.family.vae_dtype, _WIDE) if on_card else _WIDE),
        vae_tiling=not row.decodes_strips if tiling == "auto" and not on_card else tiling,
        dequantised_bytes=dequantised_bytes(config.model, block),
        rounded_bytes=rounded_bytes(config.model, block) if on_card else 0,
    )


def _bytes_of(dtype: str, automatic: int) -> int:
    return {"auto": automatic, "float32": _WIDE}.get(dtype, _NARROW)
