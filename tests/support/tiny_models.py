"""For each published model a reduced one: the same folders, files and configuration keys, small random weights.

To add a model is to add a row here and one to ``engine.models.catalog.CATALOG``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.checkpoints import write_published_wan
from tests.support.hunyuan15_checkpoint import write_hunyuan15_checkpoint
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.hunyuan_image_checkpoint import write_hunyuan_image_checkpoint
from tests.support.pictures import write_pictures


@dataclass(frozen=True)
class TinyModel:
    write: Callable[[Path], Path]
    threshold: float  # at which DiCache computes some of the steps past the warm-up and skips others
    images: int = 0  # given frames of a request: none, the first, or the first and the last
    frames: int = 9
    height: int = 48
    width: int = 80  # 45 tokens, which two ranks and four share unevenly

    def overrides(self, folder: Path) -> tuple[str, ...]:
        """What makes a recipe run on the model in ``folder``, in float32 on the CPU."""
        size = (f"sampling.{name}={getattr(self, name)}" for name in ("frames", "height", "width"))
        return (f"model.path={folder}", "model.dtype=float32", "runtime.device=cpu", *size)


def _wan(name: str, threshold: float, **settings: int) -> TinyModel:
    return TinyModel(partial(write_published_wan, name=name), threshold, **settings)


def _hunyuan15(images: int = 0) -> TinyModel:
    return TinyModel(partial(write_hunyuan15_checkpoint, images=images > 0), 0.1, images=images)


# by name in the catalog
TINY_MODELS = {
    "Wan 2.1 T2V 1.3B": _wan("Wan2.1-T2V-1.3B", 1.3),
    "Wan 2.1 T2V 14B": _wan("Wan2.1-T2V-14B", 1.3),
    "Wan 2.1 I2V 14B 480P": _wan("Wan2.1-I2V-14B", 1.0, images=1),
    "Wan 2.1 I2V 14B 720P": _wan("Wan2.1-I2V-14B", 1.0, images=1),
    "Wan 2.1 FLF2V 14B 720P": _wan("Wan2.1-FLF2V-14B", 0.8, images=2),
    "Wan 2.2 T2V A14B": _wan("Wan2.2-T2V-A14B", 1.2),
    "Wan 2.2 I2V A14B": _wan("Wan2.2-I2V-A14B", 1.2, images=1),
    "Wan 2.2 TI2V 5B": _wan("Wan2.2-TI2V-5B", 0.6, images=1, height=96, width=160),
    "HunyuanVideo": TinyModel(write_hunyuan_checkpoint, 0.2),
    "HunyuanVideo I2V": TinyModel(partial(write_hunyuan_image_checkpoint, kind="token_replace"), 0.1, images=1),
    "HunyuanVideo I2V 33ch": TinyModel(partial(write_hunyuan_image_checkpoint, kind="latent_concat"), 0.1, images=1),
    "HunyuanVideo 1.5 T2V 480p": _hunyuan15(),
    "HunyuanVideo 1.5 T2V 720p": _hunyuan15(),
    "HunyuanVideo 1.5 I2V 480p": _hunyuan15(images=1),
    "HunyuanVideo 1.5 I2V 720p": _hunyuan15(images=1),
}


class TinyFolders:
    """Reduced models in folders of their own, each written when it is first asked for, and images to give to them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pictures = write_pictures(folder)
        self._written: dict[str, Path] = {}

    def overrides(self, name: str) -> tuple[str, ...]:
        """What makes the model's recipe run on it, as :meth:`TinyModel.overrides`."""
        if name not in self._written:
            self._written[name] = TINY_MODELS[name].write(self._folder / name)
        return TINY_MODELS[name].overrides(self._written[name])

    def images(self, name: str, count: int | None = None) -> tuple[Path, ...]:
        """The first images of a request, as many as the model takes where no count is given."""
        return self._pictures[: TINY_MODELS[name].images if count is None else count]
