"""What an image file shows: transparency over a background, embedded profiles in sRGB, every mode that files have."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.checkpoints.match import calibrated_for, must_match
from engine.errors import InvalidInput
from engine.media.images import read_image
from engine.request import make_request
from tests.support.colour_profiles import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, grey_profile, in_srgb, rgb_profile
from tests.support.small_model import tiny_config

COLOURS = [(200, 40, 90), (20, 180, 60), (255, 255, 255), (0, 0, 0), (128, 128, 128), (250, 200, 30)]


def strip(colours: Any = COLOURS) -> Image.Image:
    return Image.fromarray(np.array([colours] * 2, dtype=np.uint8))


def shown(file: Path, background: str = "white") -> tuple[np.ndarray, list[str]]:
    """The colours of the first row as read, and what was said."""
    notes: list[str] = []
    image = read_image(file, "--image", background, notes.append)
    assert image.mode == "RGB"
    return np.asarray(image)[0].astype(int), notes


def opaque_and_clear(mode: str) -> Image.Image:
    """Left opaque, right transparent, with other colours hidden below."""
    rgba = Image.new("RGBA", (2, 2), (10, 200, 30, 0))
    rgba.paste((200, 40, 90, 255), (0, 0, 1, 2))
    return rgba.convert(mode)


def premultiplied(file: Path) -> Path:
    """With the tag ExtraSamples 1: colours are multiplied by alpha already."""
    opaque_and_clear("RGBA").save(file, tiffinfo={338: 1})
    return file


def with_transparent_index(folder: Path, as_bytes: bool) -> Path:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([200, 40, 90, 10, 200, 30])
    image.putpixel((1, 0), 1)
    image.save(folder / "p.png", transparency=b"\xff\x00" if as_bytes else 1)
    return folder / "p.png"


def with_transparent_level(folder: Path, mode: str, level: Any) -> Path:
    image = Image.new(mode, (2, 2), 0)
    image.putpixel((1, 0), level)
    image.save(folder / "level.png", transparency=level)
    return folder / "level.png"


TRANSPARENT: dict[str, tuple[Callable[[Path], Path | Image.Image], str, tuple[int, int, int]]] = {
    "RGBA": (lambda folder: opaque_and_clear("RGBA"), "a.png", (200, 40, 90)),
    "RGBA in WebP": (lambda folder: opaque_and_clear("RGBA"), "a.webp", (200, 40, 90)),
    "RGBA in TIFF": (lambda folder: opaque_and_clear("RGBA"), "a.tif", (200, 40, 90)),
    "premultiplied": (lambda folder: premultiplied(folder / "b.tif"), "", (200, 40, 90)),
    "LA": (lambda folder: opaque_and_clear("LA"), "a.png", (94, 94, 94)),
    "P with bytes": (lambda folder: with_transparent_index(folder, True), "", (200, 40, 90)),
    "P with an index": (lambda folder: with_transparent_index(folder, False), "", (200, 40, 90)),
    "RGB with a colour": (lambda folder: with_transparent_level(folder, "RGB", (1, 2, 3)), "", (0, 0, 0)),
    "L with a level": (lambda folder: with_transparent_level(folder, "L", 77), "", (0, 0, 0)),
    "1 with a level": (lambda folder: with_transparent_level(folder, "1", 1), "", (0, 0, 0)),
    "16 bits with a level": (lambda folder: with_transparent_level(folder, "I;16", 7777), "", (0, 0, 0)),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_a_background_shows_where_an_image_is_transparent(kind: str, tmp_path: Path) -> None:
    """The colours that a cut-out hides showed: pictures that look alike differed by half in latents."""
    make, name, left = TRANSPARENT[kind]
    made = make(tmp_path)
    if isinstance(made, Image.Image):
        made.save(tmp_path / name, lossless=True)
        made = tmp_path / name
    for background, colour in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
        row, notes = shown(made, background)
        assert np.abs(row[0] - left).max() <= 1 and tuple(row[1]) == colour and notes == []


def test_half_transparent_is_half_background(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (200, 40, 90, 128)).save(tmp_path / "a.png")
    row, _ = shown(tmp_path / "a.png", "black")
    assert np.abs(row[0] - np.array([200, 40, 90]) * 128 / 255).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame(suffix: str, tmp_path: Path) -> None:
    first, second = Image.new("RGB", (4, 4), (250, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 250))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], lossless=True)
    row, (note,) = shown(tmp_path / f"a.{suffix}")
    assert np.abs(row[0] - (250, 0, 0)).max() <= 2 and "several frames" in note


@pytest.mark.parametrize("value", ["<u2", ">u2"])
def test_grey_of_16_bits(value: str, tmp_path: Path) -> None:
    levels = np.array([[0, 257, 65535, 128 * 257]], dtype=value)
    image = Image.frombytes("I;16" if value == "<u2" else "I;16B", (4, 1), levels.tobytes())
    image.save(tmp_path / "a.tif")
    assert [tuple(colour) for colour in shown(tmp_path / "a.tif")[0]] == [(v,) * 3 for v in (0, 1, 255, 128)]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_other_ranges_of_values_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(InvalidInput, match="more than 16 bits"):
        shown(tmp_path / "a.tif")


@pytest.mark.parametrize(("name", "matrix", "gamma"), [("P3", DISPLAY_P3, 2.2), ("Adobe RGB", ADOBE_RGB, 2.19921875)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_an_embedded_profile(name: str, matrix: np.ndarray, gamma: float, mode: str, tmp_path: Path) -> None:
    image = strip().quantize(8) if mode == "P" else strip().convert(mode)
    image.save(tmp_path / "a.png", icc_profile=rgb_profile(matrix, gamma))
    row, notes = shown(tmp_path / "a.png")
    expected = np.array([in_srgb(colour, matrix, gamma) for colour in COLOURS])
    assert np.abs(row - expected).max() <= 1.5 and notes == []
    assert np.abs(row - np.array(COLOURS)).max() > 5, "it makes a difference"


def test_a_grey_profile(tmp_path: Path) -> None:
    strip().convert("L").save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    levels = np.asarray(strip().convert("L"))[0]
    expected = [in_srgb((level,) * 3, SRGB, 1.0) for level in levels]
    assert np.abs(shown(tmp_path / "a.png")[0] - np.array(expected)).max() <= 1.5
    strip().convert("LA").save(tmp_path / "b.png", icc_profile=grey_profile(1.0))
    assert np.abs(shown(tmp_path / "b.png")[0] - np.array(expected)).max() <= 1.5


def test_a_profile_of_inks(tmp_path: Path) -> None:
    """Its table makes one ink L* 61, two L* 22 of 100, and three black: greys, whatever the ink."""
    inks = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 0, 255), (0, 255, 255, 0), (0, 0, 0, 0)]
    image = Image.frombytes("CMYK", (5, 1), bytes(value for ink in inks for value in ink))
    image.save(tmp_path / "a.tif", icc_profile=cmyk_profile())
    row, notes = shown(tmp_path / "a.tif")
    assert notes == [] and np.ptp(row, axis=1).max() <= 2, "greys"
    assert np.abs(row[:3, 0] - 146).max() <= 8 and row[3, 0] < 80 and row[4, 0] == 255


def test_a_profile_of_lab(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(
        strip(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    for profile in (None, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        lab.save(tmp_path / "a.tif", icc_profile=profile)
        # 8 bits of Lab are coarse
        assert np.abs(shown(tmp_path / "a.tif")[0] - np.array(COLOURS)).max() <= 10


def test_a_profile_of_srgb_changes_no_pixel(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png", "--image")), values)


@pytest.mark.parametrize(
    ("mode", "profile", "words"),
    [
        ("RGB", b"no profile", "cannot be used"),
        ("RGB", rgb_profile(DISPLAY_P3, 2.2)[:200], "cannot be used"),
        ("RGB", rgb_profile(DISPLAY_P3, 2.2)[:300] + b"\xff" * 200, ""),
        ("RGB", grey_profile(2.2), "GRAY"),
        ("RGB", cmyk_profile(), "CMYK"),
        ("CMYK", rgb_profile(DISPLAY_P3, 2.2), None),
        ("L", cmyk_profile(), "CMYK"),
    ],
)
def test_a_profile_that_cannot_be_used_is_named(mode: str, profile: bytes, words: str | None, tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    strip().convert(mode).save(file, icc_profile=profile)
    row, notes = shown(file)
    if words is None:
        return
    (note,) = notes
    assert words in note and note.startswith(f"--image {str(file)!r}: its colour profile")
    assert np.array_equal(row, np.asarray(strip().convert(mode).convert("RGB"))[0])


def png_with(file: Path, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG with more chunks before its pixels."""
    strip().save(file)
    content = file.read_bytes()
    added = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    file.write_bytes(content[:33] + added + content[33:])
    return file


def test_other_words_on_colours_are_named(tmp_path: Path) -> None:
    def gamma(value: int) -> tuple[bytes, bytes]:
        return b"gAMA", struct.pack(">I", value)

    wide = b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    file = tmp_path / "a.png"
    assert "gamma of 1" in shown(png_with(file, gamma(100000)))[1][0]
    assert "primaries" in shown(png_with(file, gamma(45455), wide))[1][0]
    assert shown(png_with(file, gamma(45455)))[1] == shown(png_with(file, (b"sRGB", b"\0"), gamma(100000)))[1] == []
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    strip().save(tmp_path / "a.jpg", exif=exif)
    assert "Adobe RGB" in shown(tmp_path / "a.jpg")[1][0]


def test_it_is_turned_as_before(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    profile = rgb_profile(DISPLAY_P3, 2.2)
    strip().save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    strip(COLOURS[::-1]).save(tmp_path / "b.png", icc_profile=profile)
    assert np.array_equal(shown(tmp_path / "a.png")[0], shown(tmp_path / "b.png")[0])


def test_damaged_and_odd_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    for name in ("a.png", "a.webp", "a.tif"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InvalidInput, match=r"cannot be read|not an image"):
            shown(tmp_path / name)
    Image.new("RGBA", (1000, 2)).save(tmp_path / "line.png")
    with pytest.raises(InvalidInput, match="has 1000×2 pixels"):
        shown(tmp_path / "line.png")
    size = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 6, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n\0\0\0\r" + size + struct.pack(">I", zlib.crc32(size))
    (tmp_path / "bomb.png").write_bytes(content + b"\0\0\0\x04IDAT" + bytes(8))
    with pytest.raises(InvalidInput, match="million pixels"):
        shown(tmp_path / "bomb.png")


@pytest.mark.parametrize("value", ["blurple", "", "#12345", "rgb(1,2)", "white" * 100, "#ffffff00", "rgba(1,2,3,4)"])
def test_a_background_that_is_none_is_refused_when_it_is_read(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"sampling\.background is .*, which is (no colour|transparent)"):
        tiny_config(f"sampling.background={value!r}")


def test_a_background_without_quotes() -> None:
    assert tiny_config("sampling.background=#102030").sampling.background == "#102030"
    with pytest.raises(InvalidInput, match=r"sampling\.background is empty.*quotes"):
        tiny_config("sampling.background=")


def test_it_belongs_to_the_request() -> None:
    """A checkpoint is not continued with another background; a calibration holds for any, as for any image."""
    white, black = (tiny_config(f"sampling.background={name}") for name in ("white", "black"))
    requests = [make_request(["x"], "", 0, config.sampling) for config in (white, black)]
    assert must_match(white, requests[0]) != must_match(black, requests[1])
    assert calibrated_for(white, white.sampling) == calibrated_for(black, black.sampling)
