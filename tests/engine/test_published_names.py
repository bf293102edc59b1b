"""Under which names a model may have been published, and what is refused where that matters."""

from dataclasses import replace
from pathlib import Path

import pytest

from dicache.published.magnitudes import TABLES
from dicache.published.polynomials import POLYNOMIALS
from engine.config import SamplingConfig
from engine.models.catalog import CATALOG
from engine.models.facts import read_facts
from engine.models.published import published_names
from engine.request import GenerationRequest, make_request
from tests.support.small_model import tiny_config

FACTS = {model.name: model.facts for model in CATALOG}


def request(height: int = 480, image: Path | None = None) -> GenerationRequest:
    sampling = SamplingConfig(height=height, width=832, frames=81)
    return make_request(["x"], "", 0, sampling).model_copy(update={"image": image})


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("Wan 2.1 T2V 1.3B", ["Wan2.1-T2V-1.3B"]),
        ("Wan 2.1 T2V 14B", ["Wan2.1-T2V-14B"]),
        ("Wan 2.1 I2V 14B 480P", ["Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P"]),
        ("Wan 2.2 T2V A14B", ["Wan2.2-T2V-A14B"]),
        ("Wan 2.2 I2V A14B", ["Wan2.2-I2V-A14B"]),
        ("Wan 2.2 TI2V 5B", ["Wan2.2-TI2V-5B"]),
        ("HunyuanVideo", ["HunyuanVideo", "HunyuanVideo-544p", "HunyuanVideo-720p"]),
    ],
)
def test_names(model: str, names: list[str]) -> None:
    assert list(published_names(FACTS[model], request())) == names
    assert any(name in TABLES for name in names)


def test_what_an_image_and_the_height_change() -> None:
    image = Path("frame.png")
    assert published_names(FACTS["Wan 2.2 TI2V 5B"], request(704, image)) == ("Wan2.2-TI2V-5B-image",)
    hunyuan = FACTS["HunyuanVideo"]
    assert published_names(hunyuan, request(720)) == ("HunyuanVideo", "HunyuanVideo-720p")
    assert published_names(hunyuan, request(544)) == ("HunyuanVideo", "HunyuanVideo-544p")
    first_and_last = replace(FACTS["Wan 2.1 I2V 14B 480P"], clip_images=2)
    assert not {*TABLES, *POLYNOMIALS} & {*published_names(first_and_last, request())}, "never measured on that one"


def test_the_small_model_was_published_nowhere() -> None:
    config = tiny_config()
    assert published_names(read_facts(config.model.path), request()) == ()
