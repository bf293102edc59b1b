"""A video that another run has finished under the same name is not replaced, where nobody has named the file."""

import json
from dataclasses import replace
from pathlib import Path

from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import Outputs, make_tasks
from parallel.ranks import Ranks
from tests.support.small_model import tiny_config


class Noting(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_a_video_that_was_made_meanwhile_is_kept(tmp_path: Path) -> None:
    config = tiny_config("sampling.steps=2")
    progress = Noting()
    engine = Engine(load_model(config, Ranks()), progress)
    video, report = tmp_path / "a.mp4", tmp_path / "a.json"
    (task,) = make_tasks(["x"], "", [0], config.sampling, Outputs(video, report, replaces=False))
    report.write_text("{}")
    for left, kept in (("a", False), ("a-2", True), ("a-3", True)):
        # the first is what this job had left when it was broken off: a video without its report
        video.write_text("older")
        if not kept:
            report.unlink()
        result = engine.generate_all([task])
        assert result is not None and result[0]["output"]["path"] == str(tmp_path / f"{left}.mp4")
        assert (video.read_text(errors="replace") == "older") is kept
        assert json.loads((tmp_path / f"{left}.json").read_text())["output"]["path"] == str(tmp_path / f"{left}.mp4")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"a{number}{suffix}" for number in ("-2", "-3", "") for suffix in (".json", ".mp4")
    ]
    assert [note for note in progress.notes if "by another run" in note] == [
        f"{video} was made by another run meanwhile: this video is {tmp_path / f'a-{number}.mp4'}" for number in (2, 3)
    ]
    engine.generate_all([replace(task, outputs=replace(task.outputs, replaces=True))])
    assert video.read_bytes() != b"older", "its name was given"
