"""`lockstep sweep` as a person runs it."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from engine.errors import InvalidInput
from launch.sweep.job import SweepOptions, prepare_sweep
from parallel.place import Place
from tests.support.shell import Shell, finish, untimed
from tests.support.small_model import CONFIG

pytestmark = pytest.mark.timeout(300)


def sweep(shell: Shell, *arguments: str) -> subprocess.Popen[str]:
    return shell.lockstep("sweep", *shell.options("--prompts=prompts.txt", "--output=results", *arguments))


def test_two_ranks_measure_together_and_nothing_is_made_twice(shell: Shell) -> None:
    (shell.folder / "prompts.txt").write_text("a red circle\na blue square\n")
    arguments = ("--methods=dicache", "--shares=40", "--tune-prompts=1", "--ranks=2")
    out, err = finish(sweep(shell, *arguments))
    folder = shell.folder / "results"
    document = json.loads((folder / "sweep.json").read_text())
    uncached, *settings = document["settings"]
    assert uncached["steps_skipped"] == 0 and uncached["psnr"] == 100 and uncached["cache_bytes"] == 0
    assert {setting["curve"] for setting in settings} == {"dicache"}
    for setting in settings:
        assert abs(setting["steps_skipped"] - 0.4) < 0.1 and 0 < setting["psnr"] < 100 and setting["cache_bytes"] > 0
        assert len(setting["prompts"]) == 2 and setting["denoise_seconds"] > 0
    assert (folder / "sweep.md").read_text() in out and "2 ranks" in out
    assert ElementTree.parse(folder / "sweep.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert err.count("dB") >= len(settings), "progress says what came out"

    runs = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*.json")}
    assert len(list(folder.glob("references/*"))) == 2
    lost = sorted(runs)[-1]
    lost.unlink()
    finish(sweep(shell, *arguments))
    again = {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/*.json")}
    assert again.keys() == runs.keys()
    assert [file for file in runs if again[file] != runs[file]] == [lost]
    before, now = document["settings"], json.loads((folder / "sweep.json").read_text())["settings"]
    assert [s["psnr"] for s in now] == [s["psnr"] for s in before]

    _, err = finish(sweep(shell, "--ranks=1"), expected=2)
    assert len(untimed(err)) == 1 and "results" in err and "layout" in err, err


REFUSED = {
    "share": ({"shares": "50,x"}, (), "'x'"),
    "method": ({"methods": "magic"}, (), "'magic'"),
    "not for this model": ({"methods": "magcache"}, ("cache.calibration=null",), "magcache"),
    "tune": ({"tune_prompts": 0}, (), "--tune-prompts is 0"),
    "replicas": ({}, ("parallel.data=2",), "parallel.data is 2"),
    "checkpoints": ({}, ("checkpoint.every=2",), "checkpoint.every"),
    "folder": ({"output": Path("prompts.txt")}, (), "prompts.txt"),
    "folder of the model": ({"output": Path("model/sweep")}, (), "inside the model folder"),
    "no prompts": ({"prompts_file": Path("no.txt")}, (), "no.txt"),
    "sampling": ({}, ("sampling.frames=6",), "sampling.frames is 6"),
    "probe": ({"methods": "dicache"}, ("cache.probe_depth=3",), "probe_depth is 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_sentence(
    what: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red circle\na blue square\n")
    Path("model").symlink_to(tiny_checkpoint)
    changes, overrides, word = REFUSED[what]
    small = ["sampling.steps=8", "sampling.frames=5", "sampling.height=32", "sampling.width=32"]
    options = SweepOptions(str(CONFIG), Path("prompts.txt"), Path("results"), overrides=["model.path=model", *small])
    prepare_sweep(options, Place())
    with pytest.raises(InvalidInput) as refused:
        prepare_sweep(replace(options, **changes, overrides=[*options.overrides, *overrides]), Place())
    message = str(refused.value)
    assert "\n" not in message and word in message and message[-1] in ".?"
    assert not Path("results").exists()


def test_of_all_methods_those_that_the_model_allows(tmp_path: Path, tiny_checkpoint: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    job = prepare_sweep(
        SweepOptions(str(CONFIG), prompts, tmp_path / "out", overrides=[f"model.path={tiny_checkpoint}"]), Place(1)
    )
    names = [curve.name for curve in job.curves]
    assert "dicache" in names and "easycache" in names and "magcache" not in names
    assert any(note.startswith("magcache is left out: ") for note in job.notes)
