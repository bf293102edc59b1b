"""What a player shows of the file: the colours of the frames, by the matrix that the file names."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from engine.media.video import write_video

COLOURS = [
    (0, 255, 0),
    (255, 0, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
    (128, 64, 200),
    (17, 99, 180),
    (250, 200, 30),
]


def as_a_player_shows(frame: av.VideoFrame) -> np.ndarray:
    """The mean colour by BT.709 with limited range (ITU-R BT.709-6, items 3.2 and 3.4), written out here."""
    planes = frame.to_ndarray(format="yuv420p").astype(float)
    height = frame.height
    luma, blue, red = (part.mean() for part in np.split(planes, [height, height + height // 4]))
    y, u, v = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    rgb = (y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u)
    return np.clip(np.array(rgb), 0, 1) * 255


@pytest.mark.parametrize(("height", "width", "fps"), [(64, 64, 16), (16, 16, 1), (48, 80, 23), (720, 1280, 60)])
def test_plain_colours_come_back(height: int, width: int, fps: int, tmp_path: Path) -> None:
    frames = torch.tensor(COLOURS, dtype=torch.uint8)[:, None, None, :].expand(-1, height, width, 3).contiguous()
    write_video([frames], tmp_path / "colours.mp4", fps, height, width)
    with av.open(str(tmp_path / "colours.mp4")) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        assert codec.pix_fmt == "yuv420p" and stream.average_rate == fps
        shown = [as_a_player_shows(frame) for frame in container.decode(video=0)]
    assert len(shown) == len(COLOURS)
    assert np.abs(np.array(shown) - np.array(COLOURS)).max() <= 2


def test_a_browser_can_begin_to_play_at_once(tmp_path: Path) -> None:
    write_video([torch.zeros(3, 32, 32, 3, dtype=torch.uint8)], tmp_path / "v.mp4", 8, 32, 32)
    content = (tmp_path / "v.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
