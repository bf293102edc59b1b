"""I3 for HunyuanVideo with an image: from files, what the diffusers pipeline gives, for both kinds of transformer."""

from pathlib import Path

import av
import pytest
import torch

from engine.components.hunyuan_autoencoder import load_hunyuan_autoencoder
from engine.components.hunyuan_video.image_to_video import HunyuanVideoImagePromptEncoder
from engine.errors import RankFailure
from engine.media.video import drop_frames
from engine.models.facts import read_facts
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.hunyuan_images import (
    CONCAT,
    KINDS,
    LONG,
    REPLACE,
    SHORT,
    asked,
    configured,
    generate,
    write_models,
    write_pictures,
)
from tests.support.parity import difference, pipeline_video

NEGATIVE = "slowly moving"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


# kind, prompts, negative prompt, overrides
CASES: list[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = [
    (CONCAT, (LONG,), "", ()),
    (CONCAT, (LONG,), NEGATIVE, ("sampling.guidance=3",)),
    (CONCAT, (LONG,), "", ("sampling.guidance=3", "sampling.frames=5")),
    (CONCAT, (SHORT, LONG), "", ()),
    (CONCAT, (LONG,), "", ("sampling.max_sequence_length=8",)),
    (REPLACE, (LONG,), "", ()),
    (REPLACE, (SHORT, LONG), "", ("sampling.guidance=1", "sampling.frames=5")),
    (REPLACE, (LONG,), "", ("sampling.shift=17", "sampling.max_sequence_length=8")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_gives_the_pipelines_latents(kind: str, models: dict[str, Path], files: dict[str, Path]) -> None:
    cases = []
    for _, prompts, negative_prompt, overrides in (case for case in CASES if case[0] == kind):
        config = configured(models[kind], *overrides)
        cases.append((config, asked(config, files["lying"], *prompts, negative_prompt=negative_prompt)))
    for case, result in zip(cases, generate(Ranks(), cases), strict=True):
        assert difference(result.latents, pipeline_video(*case)) <= 1e-5, case[0].sampling


def test_a_guided_pair_of_prompts_is_two_requests(models: dict[str, Path], files: dict[str, Path]) -> None:
    """The pipeline has one black image for any number of prompts, and fails; the noise of the first is the same."""
    config = configured(models[CONCAT], "sampling.guidance=3")
    requests = [
        asked(config, files["lying"], *prompts, negative_prompt=NEGATIVE) for prompts in ((SHORT, LONG), (SHORT,))
    ]
    both, alone = generate(Ranks(), [(config, request) for request in requests])
    assert difference(both.latents[:1], alone.latents) <= 1e-5
    assert difference(both.latents[1:], alone.latents) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_for_matters(kind: str, models: dict[str, Path], files: dict[str, Path]) -> None:
    """Else parity could hold for a model that does not look."""
    config = configured(models[kind])
    variants = [
        asked(config, files["lying"], LONG),
        asked(config, files["other"], LONG),
        asked(config, files["lying"], SHORT),
    ]
    cases = [(config, request) for request in variants]
    for override in ("sampling.guidance=3", "sampling.shift=3", "sampling.max_sequence_length=5"):
        other = configured(models[kind], override)
        cases.append((other, asked(other, files["lying"], LONG)))
    if kind == CONCAT:
        guided = configured(models[kind], "sampling.guidance=3")
        cases.append((guided, asked(guided, files["lying"], LONG, negative_prompt=NEGATIVE)))
    latents = [result.latents for result in generate(Ranks(), cases)]
    for i, one in enumerate(latents):
        for another in latents[i + 1 :]:
            assert difference(one, another) > 1e-3


def test_the_prompt_sees_the_image(models: dict[str, Path], files: dict[str, Path]) -> None:
    for kind, image_tokens in ((CONCAT, 288), (REPLACE, 144)):
        config = configured(models[kind])
        encoder = HunyuanVideoImagePromptEncoder(config, Ranks())
        with torch.no_grad():
            first, other = (
                encoder.encode(asked(config, files[name], SHORT), 1, CollectiveMeter())[0]
                for name in ("lying", "other")
            )
        assert first["prompt_embeds"].shape[1] == image_tokens + 256 - 4, "of the template's end a line break stays"
        assert int(first["prompt_attention_mask"].sum()) == image_tokens + 3 + 1
        difference = (first["prompt_embeds"] - other["prompt_embeds"])[0].abs().amax(dim=1)
        assert (difference[: image_tokens + 4] > 1e-3).all(), "the words stand behind the image"


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_gives_the_pipelines_frames(
    kind: str, models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    config = configured(models[kind], "sampling.frames=25")  # 7 latent frames: several of diffusers' pieces of time
    request = asked(config, files["lying"], LONG)
    (latents,), (expected,) = pipeline_video(config, request), pipeline_video(config, request, "np")
    assert len(expected) == (21 if kind == CONCAT else 25)
    decoded = load_hunyuan_autoencoder(config, Ranks()).decode(latents, CollectiveMeter())
    frames = torch.cat(list(drop_frames(decoded, read_facts(models[kind]).dropped_frames)))
    assert frames.shape == expected.shape
    assert expected.std() > 0.01, "a flat picture would hide mistakes"
    assert (frames - 255.0 * expected).abs().max() <= 0.51, "rounding to 8 bits is all that may differ"
    generate(Ranks(), [(config, request)], tmp_path / "video.mp4")
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert len(list(container.decode(video=0))) == len(expected)


def test_frames_are_dropped_whatever_the_chunks() -> None:
    frames = torch.arange(9)[:, None, None, None]
    for sizes in ([9], [1, 8], [4, 4, 1], [2, 3, 4]):
        for count in (0, 1, 4, 9):
            chunks = list(drop_frames((chunk for chunk in frames.split(sizes)), count))
            assert [int(frame) for chunk in chunks for frame in chunk] == list(range(count, 9))


def test_an_image_that_vanished_after_the_check(models: dict[str, Path], tmp_path: Path) -> None:
    config = configured(models[REPLACE])
    with pytest.raises(RankFailure, match=r"--image .*gone\.png.* not there"):
        generate(Ranks(), [(config, asked(config, tmp_path / "gone.png", SHORT))])
