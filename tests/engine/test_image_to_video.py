"""Wan with images in the whole engine: what the diffusers pipeline gives, from files, on one rank and on several."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from engine.checks.preflight import preflight
from engine.components.wan.images import mark_given_frames
from engine.config import Config
from engine.engine import Engine, Result
from engine.errors import InvalidInput, RankFailure
from engine.execution.loaded import load_model
from engine.media.images import fit_last, read_image
from engine.progress import Progress
from engine.request import GenerationRequest, Outputs, make_request, make_tasks
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.checkpoints import write_image_checkpoint, write_tiny_checkpoint
from tests.support.gang import Gang
from tests.support.parity import difference, pipeline_video
from tests.support.pictures import picture, write_pictures
from tests.support.small_model import tiny_config

I2V, FLF2V, A14B, TI2V = "Wan2.1-I2V-14B", "Wan2.1-FLF2V-14B", "Wan2.2-I2V-A14B", "Wan2.2-TI2V-5B"
PROMPTS = ("a red circle", "a wide blue sea")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    models = {name: write_image_checkpoint(folder / name, name) for name in (I2V, FLF2V, A14B, TI2V)}
    return models | {"text": write_tiny_checkpoint(folder / "text")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of another size and shape than any video."""
    return dict(zip(("first", "last"), write_pictures(tmp_path_factory.mktemp("pictures")), strict=True))


def configured(models: dict[str, Path], name: str, *overrides: str) -> Config:
    size = (64, 96) if name == TI2V else (48, 80)
    small = [f"sampling.height={size[0]}", f"sampling.width={size[1]}", "sampling.frames=9", "sampling.steps=4"]
    return tiny_config(f"model.path={models[name]}", "cache.method=none", *small, *overrides)


def asked(
    config: Config, files: dict[str, Path], *images: str, prompts: tuple[str, ...] = PROMPTS[:1]
) -> GenerationRequest:
    return make_request(prompts, "a square", 11, config.sampling, *(files[image] for image in images))


def generate(ranks: Ranks, config: Config, request: GenerationRequest) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(request)


# model, images, prompts, overrides; one prompt with published settings is tests/distributed/test_models.py's
CASES = {
    "2.1 I2V, two prompts": (I2V, ["first"], 2, ()),
    "2.1 I2V, one frame": (I2V, ["first"], 1, ("sampling.frames=1",)),
    "2.1 I2V, no guidance": (I2V, ["first"], 1, ("sampling.guidance=1",)),
    "FLF2V, two prompts": (FLF2V, ["first", "last"], 2, ("sampling.frames=5",)),
    "2.2 I2V": (A14B, ["first"], 1, ("sampling.low_noise_guidance=2.5",)),
    "2.2 I2V, last image": (A14B, ["first", "last"], 1, ()),
    "TI2V, two prompts": (TI2V, ["first"], 2, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_one_rank_gives_the_pipelines_latents(case: str, models: dict[str, Path], files: dict[str, Path]) -> None:
    name, images, num_prompts, overrides = CASES[case]
    config = configured(models, name, *overrides)
    request = asked(config, files, *images, prompts=PROMPTS[:num_prompts])
    assert difference(generate(Ranks(), config, request).latents, pipeline_video(config, request)) <= 1e-5


@pytest.mark.parametrize("name", [I2V, FLF2V])
def test_sharded_weights_give_the_same_bits(
    gang: Gang, name: str, models: dict[str, Path], files: dict[str, Path]
) -> None:
    """The image embedder and the image's keys and values have layers and norms that no other model has."""
    images = ["first", "last"] if name == FLF2V else ["first"]
    whole, shared = (configured(models, name, f"parallel.shard_weights={value}") for value in ("false", "true"))
    request = asked(whole, files, *images)
    expected = gang.run(generate, Degrees(ulysses=2), whole, request)
    for result in gang.run(generate, Degrees(ulysses=2), shared, request):
        assert torch.equal(result.latents, expected[0].latents)


def test_every_image_matters(models: dict[str, Path], files: dict[str, Path]) -> None:
    """Else parity could hold for a model that does not look."""
    for name, images in ((I2V, ["first"]), (FLF2V, ["first", "last"]), (A14B, ["first"]), (TI2V, ["first"])):
        config = configured(models, name)
        seen = generate(Ranks(), config, asked(config, files, *images)).latents
        for i, image in enumerate(images):
            other = [*images]
            other[i] = "last" if image == "first" else "first"
            assert difference(generate(Ranks(), config, asked(config, files, *other)).latents, seen) > 1e-3


def test_an_image_is_turned_upright(models: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    upright = Image.open(files["first"])
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees clockwise
    lying = tmp_path / "lying.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    assert Image.open(lying).size == upright.size[::-1]
    assert np.array_equal(np.asarray(read_image(lying, "--image")), np.asarray(upright))
    config = configured(models, I2V)
    expected = generate(Ranks(), config, asked(config, files, "first")).latents
    latents = generate(Ranks(), config, asked(config, {"first": lying}, "first")).latents
    assert torch.equal(latents, expected)


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK", "1", "LA"):
        file = tmp_path / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}"
        picture(0, 20, 10).convert(mode).save(file)
        assert (read_image(file, "--image").mode, read_image(file, "--image").size) == ("RGB", (20, 10))


def test_a_last_image_of_another_size_is_scaled_and_cropped_to_the_first() -> None:
    first, scene = picture(0, 80, 48), picture(1, 160, 96)
    assert fit_last(first, first) is first
    wide = ImageOps.expand(scene, (60, 0), "red")
    high = ImageOps.expand(scene, (0, 30), "red")
    for last in (wide, high):
        fitted = np.asarray(fit_last(last, first), dtype=int)
        assert fitted.shape == (48, 80, 3)
        expected = np.asarray(scene.resize((80, 48), Image.Resampling.LANCZOS), dtype=int)
        inner = np.s_[4:-4, 4:-4]  # at the edge the filter sees a little of the border
        assert np.abs(fitted - expected)[inner].max() <= 3, "what is left is neither moved nor stretched"


def test_the_mask_of_given_frames() -> None:
    assert mark_given_frames(9, 4, with_last=False).tolist() == [[1, 0, 0]] * 4
    assert mark_given_frames(9, 4, with_last=True).tolist() == [[1, 0, 0]] * 3 + [[1, 0, 1]]
    assert mark_given_frames(1, 4, with_last=False).tolist() == [[1]] * 4


def test_the_report_names_the_images(models: dict[str, Path], files: dict[str, Path]) -> None:
    config = configured(models, A14B)
    report = generate(Ranks(), config, asked(config, files, "first", "last")).report
    assert report and report["request"]["image"] == str(files["first"])
    assert report["request"]["last_image"] == str(files["last"])


def test_an_image_that_vanished_after_the_check(models: dict[str, Path], tmp_path: Path) -> None:
    config = configured(models, I2V)
    with pytest.raises(RankFailure, match=r"--image .*gone\.png.* not there"):
        generate(Ranks(), config, asked(config, {"gone": tmp_path / "gone.png"}, "gone"))


@pytest.fixture(scope="module")
def bad(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes(files["first"].read_bytes()[:-200])
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    Image.new("1", (20_000, 10_000)).save(folder / "vast.png")
    Image.new("F", (8, 8)).save(folder / "deep.png", format="TIFF")
    return {"gone": folder / "gone.png", "folder": folder} | {
        name: folder / f"{name}.png" for name in ("text", "cut", "huge", "vast", "deep")
    }


@pytest.mark.parametrize(
    ("name", "images", "overrides", "words"),
    [
        (I2V, ["gone"], (), ["--image", "gone.png", "not there"]),
        (I2V, ["folder"], (), ["--image", "bad", "not an ordinary file"]),
        (I2V, ["text"], (), ["--image", "text.png", "not an image"]),
        (I2V, ["cut"], (), ["--image", "cut.png", "cannot be read"]),
        (I2V, ["huge"], (), ["--image", "huge.png", "89 million pixels"]),
        (I2V, ["vast"], (), ["--image", "vast.png", "89 million pixels"]),
        (I2V, ["deep"], (), ["--image", "deep.png", "more than 16 bits"]),
        (FLF2V, ["first", "cut"], (), ["--last-image", "cut.png", "cannot be read"]),
        ("text", ["first"], (), ["--image", "first.png", "text alone"]),
        (I2V, [], (), ["from images", "give --image."]),
        (A14B, [], (), ["from images", "give --image."]),
        (FLF2V, [], (), ["from images", "--image and --last-image"]),
        (FLF2V, ["first"], (), ["between two images", "--image and --last-image"]),
        (I2V, ["first", "last"], (), ["--last-image", "last.png", "first one alone"]),
        (TI2V, ["first", "last"], (), ["--last-image", "last.png", "first one alone"]),
        (FLF2V, ["first", "last"], ("sampling.frames=1",), ["sampling.frames is 1", "--last-image"]),
        (I2V, ["first"], ("sampling.max_sequence_length=226",), ["max_sequence_length is 226", "512"]),
    ],
)
def test_what_does_not_fit(
    name: str,
    images: list[str],
    overrides: tuple[str, ...],
    words: list[str],
    models: dict[str, Path],
    files: dict[str, Path],
    bad: dict[str, Path],
) -> None:
    config = configured(models, name, *overrides)
    paths = [(files | bad)[image] for image in images]
    tasks = make_tasks(["x"], "", [0], config.sampling, Outputs(), *paths)
    with pytest.raises(InvalidInput) as caught:
        preflight(config, tasks, Place(1))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("name", "images"), [(I2V, 1), (FLF2V, 2), (A14B, 1), (A14B, 2), (TI2V, 0), (TI2V, 1), ("text", 0)]
)
def test_what_fits_passes(name: str, images: int, models: dict[str, Path], files: dict[str, Path]) -> None:
    config = configured(models, name, *([] if name == I2V else ["sampling.max_sequence_length=512"]))
    preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs(), *list(files.values())[:images]), Place(1))


def test_a_file_is_looked_at_only_where_it_will_be_read(models: dict[str, Path], bad: dict[str, Path]) -> None:
    """Other machines may not have it; the first rank of each replica reads it."""
    config = configured(models, I2V, "parallel.data=2", "parallel.ulysses=2")
    tasks = make_tasks(["x"], "", [0, 1], config.sampling, Outputs(), bad["gone"])
    for rank in (1, 3):
        preflight(config, tasks, Place(4, rank))
    for rank in (None, 0, 2):
        with pytest.raises(InvalidInput, match=r"gone\.png"):
            preflight(config, tasks, Place(4, rank))


def test_a_last_image_without_a_first(models: dict[str, Path], files: dict[str, Path]) -> None:
    with pytest.raises(InvalidInput, match=r"--last-image is '.*last\.png', but there is no first: .* --image\.$"):
        make_request(["x"], "", 0, configured(models, FLF2V).sampling, None, files["last"])


def test_channels_that_nobody_would_fill(tmp_path: Path) -> None:
    """As of checkpoints that are driven by a control video."""
    folder = write_image_checkpoint(tmp_path / "model", I2V)
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 52}))
    with pytest.raises(InvalidInput, match="takes 52 channels, but as a WanImageToVideoPipeline it would be given 36"):
        load_model(configured({I2V: folder}, I2V), Ranks())


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("image_encoder/model.safetensors", ["image_encoder", "model.safetensors", "missing"]),
        ("image_encoder/config.json", ["image_encoder", "config.json", "missing"]),
        ("image_processor/preprocessor_config.json", ["preprocessor_config.json", "missing"]),
    ],
)
def test_a_model_that_lacks_its_image_encoder(missing: str, words: list[str], tmp_path: Path) -> None:
    folder = write_image_checkpoint(tmp_path / "model", I2V)
    (folder / missing).unlink()
    with pytest.raises(InvalidInput) as caught:
        load_model(configured({I2V: folder}, I2V), Ranks())
    for word in words:
        assert word in str(caught.value)
