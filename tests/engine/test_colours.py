"""What a player shows of the file: the colours of the frames, by the matrix that the file names, when it should."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from engine.checks.model import check_size
from engine.errors import InvalidInput
from engine.media.video import frame_rate, write_video
from engine.models.facts import read_facts
from tests.support.bare_model import edit_json, write_bare_model
from tests.support.small_model import tiny_config

LEVELS = (0, 1, 16, 64, 128, 192, 235, 254, 255)
COLOURS = [(red, green, blue) for red in LEVELS for green in LEVELS for blue in LEVELS]
FEW = [(0, 255, 0), (255, 0, 0), (0, 0, 255), (128, 64, 200), (17, 99, 180), (250, 200, 30)]


def plain(colours: list[tuple[int, int, int]], height: int, width: int) -> torch.Tensor:
    """A frame of each colour, uint8 [frames, height, width, 3]."""
    return torch.tensor(colours, dtype=torch.uint8)[:, None, None, :].expand(-1, height, width, 3).contiguous()


def as_a_player_shows(frame: av.VideoFrame) -> np.ndarray:
    """All pixels by BT.709 with limited range (ITU-R BT.709-6, items 3.2 and 3.4), written out here: [height, width, 3]
    in 0 to 255; a colour is shown for the two by two pixels that it was kept for."""
    planes = frame.to_ndarray(format="yuv420p").astype(float).ravel()
    size, halves = frame.height * frame.width, (frame.height // 2, frame.width // 2)
    luma = planes[:size].reshape(frame.height, frame.width)
    blue, red = (part.reshape(halves).repeat(2, 0).repeat(2, 1) for part in np.split(planes[size:], 2))
    y, u, v = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    rgb = (y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u)
    return np.clip(np.stack(rgb, -1), 0, 1) * 255


@pytest.mark.parametrize(
    ("height", "width", "colours"),
    [(16, 16, COLOURS), (2, 2, FEW), (2, 64, FEW), (18, 34, FEW), (48, 80, FEW), (720, 1280, FEW)],
    ids=lambda value: str(len(value)) if isinstance(value, list) else str(value),
)
def test_plain_colours_come_back(height: int, width: int, colours: list[tuple[int, int, int]], tmp_path: Path) -> None:
    write_video([plain(colours, height, width)], tmp_path / "colours.mp4", 16, height, width)
    with av.open(str(tmp_path / "colours.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        assert codec.pix_fmt == "yuv420p"
        count = 0
        for frame, colour in zip(container.decode(video=0), colours, strict=True):
            shown = as_a_player_shows(frame)
            assert shown.shape == (height, width, 3)
            assert np.abs(shown - colour).max() <= 2, colour
            count += 1
    assert count == len(colours)


RATES = {
    1: Fraction(1),
    16: Fraction(16),
    240: Fraction(240),
    7.5: Fraction(15, 2),
    0.5: Fraction(1, 2),
    12.345: Fraction(2469, 200),
    23.976: Fraction(24000, 1001),
    23.98: Fraction(24000, 1001),
    29.97: Fraction(30000, 1001),
    59.94: Fraction(60000, 1001),
    59.94005994: Fraction(60000, 1001),
    14.985: Fraction(15000, 1001),
    24.0: Fraction(24),
    24.1: Fraction(241, 10),
    1 / 3: Fraction(1, 3),
}


@pytest.mark.parametrize("fps", RATES)
def test_every_frame_at_its_time(fps: float, tmp_path: Path) -> None:
    rate = RATES[fps]
    assert frame_rate(fps) == rate
    for count in (1, 2, 21):  # more than are kept back for frames that look ahead
        file = tmp_path / f"{count}.mp4"
        chunks = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8).split(4)
        write_video(chunks, file, fps, 16, 16)
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == rate and stream.frames == count
            assert stream.duration is not None and stream.time_base is not None
            assert stream.duration * stream.time_base == pytest.approx(count / rate)
            shown_at = [frame.time for frame in container.decode(video=0)]
        assert shown_at == pytest.approx([float(index / rate) for index in range(count)])


def test_a_browser_can_begin_to_play_at_once(tmp_path: Path) -> None:
    write_video([torch.zeros(3, 32, 32, 3, dtype=torch.uint8)], tmp_path / "v.mp4", 8, 32, 32)
    content = (tmp_path / "v.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(33, 16), (16, 33), (1, 1)])
def test_odd_sizes_are_refused(height: int, width: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{width}×{height} pixels cannot be written"):
        write_video([plain(FEW, height, width)], tmp_path / "v.mp4", 8, height, width)
    assert not (tmp_path / "v.mp4").exists()


def test_odd_sizes_of_a_model_whose_vae_does_not_shrink(tmp_path: Path) -> None:
    model = write_bare_model(tmp_path / "model")
    edit_json(model / "transformer" / "config.json", patch_size=[1, 1, 1])
    edit_json(model / "vae" / "config.json", scale_factor_spatial=1)
    with pytest.raises(InvalidInput, match=r"sampling.width is 33, which no H.264 file has: use 32 or 34"):
        check_size(tiny_config("sampling.width=33").sampling, read_facts(model))


@pytest.mark.parametrize("value", ["0", "0.05", "-1", "241", ".inf", ".nan", "true", "'16'"])
def test_rates_that_no_file_has(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"sampling\.fps is"):
        tiny_config(f"sampling.fps={value}")
