"""Progress and summary, on a terminal and elsewhere."""

import io
import time
from typing import Any

import pytest

from launch.screens.progress import display_on
from launch.screens.progress_lines import ProgressLines
from launch.screens.summary import list_lines, print_summary, summary_lines
from tests.support.clock import Clock
from tests.support.shell import without_time


def report(actions: dict[tuple[int, str], str], **totals: Any) -> dict[str, Any]:
    names = {"w": "warmup", "c": "compute", "s": "skip"}
    steps = [
        {"step": step, "sample": sample, "branch": branch, "action": names[letter]}
        for (sample, branch), row in actions.items()
        for step, letter in enumerate(row)
    ]
    seconds = {"load": 1.0, "encode": 0.25, "denoise": 2.0, "decode": 0.5, "write": 0.1, "total": 4.0}
    return {
        "request": {"sampling": {"width": 64, "height": 32, "frames": 17, "fps": 8}},
        "steps": steps,
        "totals": {"block_fraction": 0.4, "seconds": seconds, **totals},
        "output": {"path": "outputs/a.mp4"},
    }


def test_branches_that_decide_together_share_a_timeline() -> None:
    lines = dict(summary_lines(report({(0, "cond"): "wwcsscs", (0, "uncond"): "wwcsscs"})))
    assert lines["steps"] == "■■■··■· 4 computed, 3 skipped"
    assert lines["video"] == "outputs/a.mp4 (64×32, 17 frames, 2.1 s)"
    assert lines["seconds"] == "load 1.0 · encode 0.2 · denoise 2.0 · decode 0.5 · write 0.1 · total 4.0"
    assert lines["speed-up"].startswith("2.50×")


def test_branches_that_differ_have_their_own() -> None:
    lines = dict(summary_lines(report({(0, "cond"): "wcs", (0, "uncond"): "wss"})))
    assert lines["cond"] == "■■· 2 computed, 1 skipped"
    assert lines["uncond"] == "■·· 1 computed, 2 skipped"
    lines = dict(summary_lines(report({(0, "cond"): "wcs", (1, "cond"): "wss"})))
    assert set(lines) >= {"0 cond", "1 cond"}


def test_a_narrow_character_set() -> None:
    stream = io.TextIOWrapper(buffer := io.BytesIO(), encoding="ascii")
    print_summary([report({(0, "cond"): "wcs"})], stream)
    stream.flush()
    text = buffer.getvalue().decode("ascii")
    assert "##. 2 computed, 1 skipped" in text and "64x32" in text


def test_several_videos_and_none() -> None:
    several = report({(0, "cond"): "w"}) | {
        "output": {"path": "a-0.mp4", "videos": [{"path": "a-0.mp4"}, {"path": "a-1.mp4"}]}
    }
    assert [text.split()[0] for label, text in summary_lines(several) if label == "video"] == ["a-0.mp4", "a-1.mp4"]
    assert "video" not in dict(summary_lines(report({(0, "cond"): "w"}) | {"output": {"path": None}}))


def test_a_list_has_a_line_for_each_video() -> None:
    one = report({(0, "cond"): "wcs", (0, "uncond"): "wcs"})
    two = report({(0, "cond"): "wcc", (0, "uncond"): "wcs"}, block_fraction=1.0) | {"output": {"path": "b.mp4"}}
    lines = list_lines([one, two])
    assert lines[0] == ("video 0", "outputs/a.mp4 · 2 computed, 1 skipped · 3.0 s")
    assert lines[1][1].startswith("b.mp4 · cond 3 computed, 0 skipped · uncond 2 computed, 1 skipped")
    assert lines[2][1].startswith("1.43×"), "the mean of what was executed, not of the speed-ups"


def said(stream: io.StringIO) -> list[str]:
    lines = stream.getvalue().splitlines()
    assert all(line[:19] == without_time_of(line) for line in lines), lines
    return [without_time(line) for line in lines]


def without_time_of(line: str) -> str:
    """The time that a line begins with."""
    return line.removesuffix(without_time(line)).strip()


def test_progress_of_a_list_names_the_video(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream, clock=clock)
    lines.video(1, 3)
    lines.stage("denoise")
    lines.step(0, 1, "skip")
    lines.done()
    lines.stage("wait")
    lines.close()
    assert said(stream) == [
        "video 1 (of 3): denoising",
        "video 1 (of 3): denoising: step 1 of 1, 1 skipped",
        "waiting for other replicas",
    ]


def test_lines_of_a_short_run(clock: Clock) -> None:
    """Every tenth of the steps, with what is left by the steps of this run after its first."""
    stream = io.StringIO()
    lines = ProgressLines(stream, ranks=8, machines=2, clock=clock)
    lines.note("layout: cfg 2 [of 2]")
    lines.stage("load")
    lines.loading("VAE")
    lines.stage("denoise")
    for step in range(20, 50):  # resumed
        clock.now += 2
        lines.step(step, 50, "skip" if step % 2 else "compute")
    lines.stage("decode")
    for frames in range(4, 84, 4):
        lines.decoded(frames, 81)
    lines.close()
    assert said(stream) == [
        "8 ranks on 2 machines",
        "layout: cfg 2 [of 2]",
        "loading weights",
        "loading weights: VAE",
        "denoising",
        "denoising: step 25 of 50, 2 skipped, 50 s left",
        "denoising: step 30 of 50, 5 skipped, 40 s left",
        "denoising: step 35 of 50, 7 skipped, 30 s left",
        "denoising: step 40 of 50, 10 skipped, 20 s left",
        "denoising: step 45 of 50, 12 skipped, 10 s left",
        "denoising: step 50 of 50, 15 skipped, 0 s left",
        "decoding video",
    ], "decoding that takes no time needs no lines"


def test_lines_of_a_long_run_come_every_half_minute(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream, ranks=1, clock=clock)
    lines.stage("load")
    for _ in range(25):
        clock.now += 4
        lines.tick()
    lines.stage("denoise")
    for step in range(3):
        for _ in range(5):
            clock.now += 10
            lines.tick()
        lines.step(step, 1000, "compute")
    lines.stage("decode")
    for chunk in range(1, 6):
        clock.now += 12
        lines.decoded(4 * chunk, 400)
        lines.tick()
    lines.close()
    assert said(stream) == [
        "1 rank",
        "loading weights",
        "loading weights: 32 s so far",
        "loading weights: 1:04 so far",
        "loading weights: 1:36 so far",
        "denoising",
        "denoising: 30 s so far",  # before its first step is done
        "denoising: step 1 of 1000, 0 skipped",
        "denoising: step 1 of 1000, 0 skipped",
        "denoising: step 2 of 1000, 0 skipped, 13:51:20 left",
        "denoising: step 2 of 1000, 0 skipped, 13:50:50 left",
        "decoding video",
        "decoding video: frame 12 of 400",
    ]


def test_a_video_of_a_longer_work_has_one_line_and_one_every_half_minute(clock: Clock) -> None:
    stream = io.StringIO()
    lines = ProgressLines(stream, clock=clock)
    for video, seconds in enumerate((1, 7)):
        lines.video(video, 4)
        lines.stage(f"round 1 of 2, prompt {video}")
        lines.doing("denoise")
        for step in range(10):
            clock.now += seconds
            lines.step(step, 10, "compute")
    lines.close()
    assert said(stream) == [
        "video 0 (of 4): round 1 of 2, prompt 0",
        "video 1 (of 4): round 1 of 2, prompt 1",
        "video 1 (of 4): round 1 of 2, prompt 1: step 5 of 10, 0 skipped, 35 s left",
        "video 1 (of 4): round 1 of 2, prompt 1: step 10 of 10, 0 skipped, 0 s left",
    ]


def test_a_step_that_never_ends_is_said_too() -> None:
    """Not by the thread that works, which may wait for other ranks in C++."""
    stream, clock = io.StringIO(), Clock()
    lines = ProgressLines(stream, clock=clock)
    clock.now += 31
    deadline = time.monotonic() + 10
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)
    lines.close()
    assert said(stream) == ["starting: 31 s so far"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    stream = Terminal()
    display = display_on(stream, ranks=2)
    display.note("layout: cfg 2 [of 2]")
    display.stage("denoise")
    for step in range(5):
        display.step(step, 5, "skip" if step else "warmup")
    display.close()
    text = stream.getvalue()
    assert "layout: cfg 2 [of 2]" in text
    assert "denoising" in text and "5/5" in text and "4 skipped" in text


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}, {"TERM": "xterm", "CI": "true"}])
def test_a_terminal_that_nobody_watches_gets_lines(environment: dict[str, str], monkeypatch: Any) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    display = display_on(stream, ranks=2)
    display.stage("load")
    display.close()
    assert said(stream) == ["2 ranks", "loading weights"]


def test_a_pipe_stays_a_pipe_where_colours_are_forced(monkeypatch: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    display = display_on(stream)
    display.stage("load")
    display.close()
    assert said(stream) == ["loading weights"]


def test_a_reader_that_has_gone_is_no_failure() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    display = display_on(Gone())
    display.stage("load")
    display.close()
    print_summary([report({(0, "cond"): "w"})], Gone())
