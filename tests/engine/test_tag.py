"""The tag of a video: whatever a prompt holds survives, nothing of the machine is in it, no file breaks its reader."""

import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import av
import pytest

from dicache.config import CacheConfig
from engine.config import ModelConfig
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.generation.tag import model_name, parse_tag, tag_text
from engine.generation.tagged import read_tag
from engine.media.comment import read_comment
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, ROOT, tiny_config
from tests.support.tagged import DONE, put, tagged, with_comment

NASTY = (
    'quotes " \' ` \\ {"format": 1} \n\r\n\t two lines \x1b[31mred\x1b[0m \x9b2J \x00 \x07 \x7f '
    "e\u0301 \u202eback\u202c \u2028 \u00a0 \u200d \ufeff \ufffe \U0001f534 \U000e0041 \u7d05\u3044\u5186 "
    "\u0645\u0631 %s ;#="
)


@pytest.mark.parametrize("prompt", [NASTY, NASTY * 60, "\U0001f534" * 10_000, "\x1b" * 10_000, "\n" * 9_999 + "x"])
def test_any_prompt_survives(prompt: str, tmp_path: Path) -> None:
    text = tagged(tmp_path / "v.mp4", prompt=prompt)
    assert text.isprintable(), "programs print comments as they are"
    assert read_comment(tmp_path / "v.mp4") == text
    request = read_tag(tmp_path / "v.mp4", "FILE is").request
    assert (request.prompt, request.negative_prompt, request.seed) == (prompt, "blurred", 7)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.metadata["comment"] == text, "as other programs read it"


def test_what_is_in_it(tmp_path: Path) -> None:
    config = tiny_config("cache.threshold=0.25", "sampling.fps=12.5")
    text = tagged(tmp_path / "v.mp4", config=config)
    whole = json.loads(text)
    assert list(whole) == ["format", "schema", "request", "model", "versions", "steps", "latents_sha256"]
    assert whole["steps"] == {"computed": 2, "skipped": 2, "block_fraction": 0.6}
    tag = parse_tag(text)
    assert tag is not None
    assert tag.request.sampling == config.sampling
    files = {"calibration", "replay"}
    assert tag.request.cache.model_dump(exclude=files) == config.cache.model_dump(exclude=files)
    assert tag.latents_sha256 == DONE.latents_sha256
    assert tag.versions["torch"] and tag.versions["lockstep-video"]
    assert tag.model.name == "tiny_wan" and tag.model.differs_in(config.model) == []
    other = ModelConfig(path=str(ROOT / "configs" / "tiny_wan" / "vae"))
    assert tag.model.differs_in(other) == ["files"]


def test_no_path_host_or_user_is_in_it(tmp_path: Path) -> None:
    (image := tmp_path / "secret-name.png").write_bytes(b"an image")
    calibration = ROOT / "configs" / "tiny-wan-calibration.json"
    chosen = CacheConfig(method="dicache", calibration=calibration, chosen=f"{calibration} was made with another")
    config = tiny_config().model_copy(update={"cache": chosen})
    request = make_request(["a circle"], "", 0, config.sampling, image, image)
    text = tagged(tmp_path / "v.mp4", config=config, request=request)
    assert "/" not in text and "secret" not in text and "calibration.json" not in text
    assert socket.gethostname() not in text
    assert json.loads(text)["request"]["cache"]["chosen"] == "cache.calibration was made with another"
    content = (tmp_path / "v.mp4").read_bytes()
    assert str(tmp_path).encode() not in content and str(ROOT).encode() not in content


def test_the_name_of_a_model() -> None:
    assert model_name("/somebody/models/tiny_wan") == "tiny_wan"
    snapshot = "/cache/hub/models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers/snapshots/0fad780a"
    assert model_name(snapshot) == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers@0fad780a"
    assert model_name("Wan-AI/Wan2.1-T2V-1.3B-Diffusers") == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def test_left_out(tmp_path: Path) -> None:
    config = tiny_config("runtime.metadata=false", "sampling.steps=2", "sampling.frames=1", "sampling.height=16")
    assert tag_text(config, make_request([PROMPT], "", 0, config.sampling), DONE) is None
    engine = Engine(load_model(config, Ranks()), Progress())
    engine.generate(make_request([PROMPT], "", 0, config.sampling), output=tmp_path / "v.mp4")
    assert read_comment(tmp_path / "v.mp4") is None
    assert b"lockstep video" not in (tmp_path / "v.mp4").read_bytes()


def test_the_file_is_for_browsers_and_players(tmp_path: Path) -> None:
    tagged(tmp_path / "v.mp4")
    content = (tmp_path / "v.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"lockstep video") < content.index(b"mdat")
    # ISO/IEC 23001-8: primaries, transfer and matrix of BT.709, and no full range
    assert b"colrnclx" + bytes([0, 1, 0, 1, 0, 1, 0]) in content


DAMAGED: dict[str, tuple[list[str], Any, str]] = {
    "future schema": (["schema"], 2, "schema 2"),
    "schema that is no number": (["schema"], "1", "damaged"),
    "no request": (["request"], None, "damaged"),
    "prompt that is a number": (["request", "prompt"], 5, "prompt"),
    "empty prompt": (["request", "prompt"], " ", "--prompt"),
    "endless prompt": (["request", "prompt"], "x" * 100_001, "100001 letters"),
    "seed out of range": (["request", "seed"], 2**63, "--seed"),
    "seed of thousands of digits": (["request", "seed"], 10**4000, "damaged"),
    "no steps": (["request", "sampling", "steps"], 0, "sampling.steps"),
    "unknown key": (["request", "sampling", "gamma"], 1, "gamma"),
    "wrong type": (["request", "sampling", "height"], [64], "height"),
    "nothing finite": (["request", "sampling", "guidance"], float("inf"), "guidance"),
    "unknown method": (["request", "cache", "method"], "magic", "method"),
    "path for a calibration": (["request", "cache", "calibration"], "/etc/passwd", "/etc/passwd"),
    "path for a replay": (["request", "cache", "replay"], "../report.json", "report.json"),
    "path of a model": (["request", "model", "path"], "/etc", "path"),
    "unknown dtype": (["request", "model", "dtype"], "int3", "dtype"),
    "a device": (["request", "runtime", "device"], "cuda", "device"),
    "path for an image": (["request", "image"], "/etc/passwd", "image"),
    "files that are no hash": (["model", "files"], "0" * 63, "files"),
    "versions that are none": (["versions"], ["torch"], "versions"),
    "deep": (["request", "runtime", "attention"], json.loads("[" * 150 + "]" * 150), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_tag_that_is_not_as_we_write_it(name: str, tmp_path: Path) -> None:
    keys, value, word = DAMAGED[name]
    tagged(tmp_path / "v.mp4", change=lambda text: put(text, value, *keys))
    refused(tmp_path / "v.mp4", word)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_tag(path, "--like is")
    said = str(caught.value)
    assert said.startswith("--like is ") and said.endswith(".") and "\n" not in said and len(said) < 900
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    "comment",
    [
        "made with another program",
        '{"a": 1}',
        "",
        '{"format":"lockstep video"',
        '{"format":"lockstep video","schema":1}',
        '{"format":"lockstep video","schema":1,"request":' + "[" * 200_000,
        '{"format":"lockstep video","schema":' + "9" * 100_000 + "}",
        '["lockstep video"]',
        '"lockstep video"',
        '{"format":"lockstep video","schema":1,"request":{"prompt":"\\ud800"}}',
        '{"format":"lockstep video","schema":NaN}',
    ],
    ids=range(11),
)
def test_another_comment(comment: str, tmp_path: Path) -> None:
    with_comment(tmp_path / "v.mp4", comment)
    refused(tmp_path / "v.mp4")


def box(name: bytes, *inside: bytes) -> bytes:
    content = b"".join(inside)
    return (8 + len(content)).to_bytes(4, "big") + name + content


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    path, start = tmp_path / "v.mp4", box(b"ftyp", b"isom")
    for content, word in (
        (b"", "empty"),
        (b"\0", "no MP4"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n", "no MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no MP4"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no MP4"),
        (start, "does not say"),
        (start + box(b"free") * 20_000, "more than 10000"),
        (start + (2).to_bytes(4, "big") + b"moov", "damaged"),
        (start + (1).to_bytes(4, "big") + b"moov" + (2**64 - 1).to_bytes(8, "big"), "damaged"),
        (start + (1).to_bytes(4, "big") + b"moov", "damaged"),
        (start + box(b"moov", box(b"udta", (500).to_bytes(4, "big") + b"meta")), "damaged"),
        (start + box(b"moov", box(b"udta", box(b"meta"))), "damaged"),
        (
            start + box(b"moov", box(b"udta", box(b"meta", bytes(4), box(b"ilst", box(b"\xa9cmt", box(b"data")))))),
            "dam",
        ),
    ):
        path.write_bytes(content)
        refused(path, word)
    longer = (400).to_bytes(4, "big") + b"data" + bytes(8)  # than what it is in
    meta = box(b"meta", bytes(4), box(b"ilst", box(b"\xa9cmt", longer)))
    path.write_bytes(start + box(b"moov", box(b"udta", meta)) + bytes(600))
    refused(path, "damaged")
    nested = box(b"\xa9cmt", box(b"data", bytes(8), b"\xff\xfe"))
    path.write_bytes(start + box(b"moov", box(b"udta", box(b"meta", bytes(4), box(b"ilst", nested)))))
    refused(path, "UTF-8")
    refused(tmp_path / "none.mp4", "No such file")
    refused(tmp_path, "no file")
    refused(Path("~nobody-of-that-name/v.mp4"), "cannot be read")
    refused(Path("a\0b.mp4"), "cannot be read")
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "no file")


def test_a_comment_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    size, way = 3 * 2**30, (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
    with (tmp_path / "v.mp4").open("wb") as file:
        file.write(box(b"ftyp", b"isom"))
        for name in way:
            file.write((size - file.tell()).to_bytes(4, "big") + name + (bytes(4) if name == b"meta" else b""))
        file.truncate(size)  # of which the disk holds nothing
    refused(tmp_path / "v.mp4", "3072 MB")


def test_cut_and_flipped_files(tmp_path: Path) -> None:
    """Whatever is left of a file, its reader has a tag or a sentence."""
    text = tagged(tmp_path / "whole.mp4")
    whole, path, chance = (tmp_path / "whole.mp4").read_bytes(), tmp_path / "v.mp4", random.Random(5)
    index = whole.index(b"moov") - 4
    end = index + int.from_bytes(whole[index : index + 4], "big")
    outcomes = {"tag": 0, "sentence": 0}
    for length in range(0, end, 7):
        path.write_bytes(whole[:length])
        refused(path)
    for _ in range(400):
        flipped = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            flipped[chance.randrange(end)] = chance.randrange(256)
        path.write_bytes(flipped)
        try:
            read_tag(path, "--like is")
            outcomes["tag"] += 1
        except InvalidInput as error:
            assert "\n" not in str(error)
            outcomes["sentence"] += 1
    assert min(outcomes.values()) > 10, outcomes
    path.write_bytes(whole[: end + 10])
    assert read_comment(path) == text, "the tag is before the frames"
