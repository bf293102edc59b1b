"""Progress and summary, on a terminal and elsewhere."""

import io
from typing import Any

from launch.screens.progress import ProgressDisplay
from launch.screens.summary import list_lines, print_summary, summary_lines


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


def test_progress_of_a_list_names_the_video() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(stream)
    display.video(1, 3)
    display.stage("denoise")
    display.done()
    display.stage("wait")
    assert stream.getvalue().splitlines() == ["video 1 (of 3): denoising", "waiting for other replicas"]


def test_progress_without_a_terminal_is_a_line_for_each_stage() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(stream)
    display.note("layout: cfg 2 [of 2]")
    for name in ("load", "denoise"):
        display.stage(name)
    for step in range(5):
        display.step(step, 5, "skip")
    display.close()
    assert stream.getvalue() == "layout: cfg 2 [of 2]\nloading weights\ndenoising\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = ProgressDisplay(stream)
    display.note("layout: cfg 2 [of 2]")
    display.stage("denoise")
    for step in range(5):
        display.step(step, 5, "skip" if step else "warmup")
    display.close()
    text = stream.getvalue()
    assert "layout: cfg 2 [of 2]" in text
    assert "denoising" in text and "5/5" in text and "4 skipped" in text


def test_a_reader_that_has_gone_is_no_failure() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    display = ProgressDisplay(Gone())
    display.stage("load")
    display.close()
    print_summary([report({(0, "cond"): "w"})], Gone())
