"""The files of a run: default names, what is replaced, ".." behind links, and outputs that are links."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from engine.checks.outputs import check_outputs
from engine.config_paths import anchor_paths
from engine.errors import InvalidInput
from engine.request import Outputs
from engine.storage.files import StagedFiles, without_parents
from launch.jobs.config import load_job_config
from launch.jobs.folder import JobFolder
from launch.jobs.names import with_video_names
from launch.jobs.options import Options, options_from_json, options_to_json
from launch.jobs.preparation import prepare
from launch.jobs.resuming import Resume
from launch.queue.submissions import Submissions
from launch.queue.submit import prepare_jobs
from parallel.place import Place

CONFIG = str(Path(__file__).parents[2] / "configs" / "tiny-wan.yaml")


def named(options: Options, *overrides: str) -> list[str]:
    videos = with_video_names(options, load_job_config(CONFIG, overrides, print)).videos
    return [str(video) for video in videos]


def test_a_default_name_says_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options(CONFIG, ["A red  circle!"], seeds=[7])
    (first,) = named(options)
    assert first.startswith("outputs/a-red-circle-seed7-") and first.endswith(".mp4")
    assert len(first) == len("outputs/a-red-circle-seed7-12345678.mp4")
    assert named(options) == [first], "the same job has the same name"
    others = [
        named(replace(options, negative_prompt="blue")),
        named(replace(options, image=tmp_path / "a.png")),
        named(options, "sampling.steps=3"),
        named(options, "cache.method=none"),
        named(replace(options, seeds=[8])),
        named(replace(options, prompts=["A red circle?"])),
    ]
    assert len({first, *(name for names in others for name in names)}) == 7
    assert named(options, "runtime.device=cpu", "parallel.ulysses=2") == [first], "where it is made does not matter"
    assert named(replace(options, output=tmp_path / "a.mp4")) == []


def test_each_of_several_videos_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = named(Options(CONFIG, ["a", "b", "a"], seeds=[1, 2]))
    assert len(set(names)) == 6
    assert [name.split("-")[:2] for name in names] == [
        [f"outputs/{prompt}", f"seed{seed}"] for prompt in "aba" for seed in (1, 2)
    ]
    assert names[4] == names[0].replace(".mp4", "-2.mp4"), "asked for twice"


@pytest.mark.parametrize("prompt", ["x" * 5000, "漢字" * 500, "../../etc/passwd", "...", "\x1b[31m", "CON", "-rf"])
def test_a_default_name_is_a_file_in_outputs(prompt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (name,) = named(Options(CONFIG, [prompt], seeds=[2**63 - 1]))
    path = Path(name)
    assert path.parent == Path("outputs") and name.isprintable() and not path.name.startswith(("-", "."))
    check_outputs(Outputs(path, path.with_suffix(".json")), tmp_path / "model")


@pytest.mark.parametrize("taken", [".mp4", ".json", "link"])
def test_a_default_name_passes_over_what_is_there(taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options(CONFIG, ["a"])
    (first,) = named(options)
    Path("outputs").mkdir()
    if taken == "link":
        Path(first).symlink_to("nowhere.mp4")
    else:
        Path(first).with_suffix(taken).touch()
    (second,) = named(options)
    assert second == first.replace(".mp4", "-2.mp4")
    Path(second).touch()
    assert named(options) == [first.replace(".mp4", "-3.mp4")]


def test_a_run_that_is_repeated_takes_the_names_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options, config = Options(CONFIG, ["a"]), load_job_config(CONFIG, [], print)

    def repeated() -> str:
        return str(with_video_names(options, config, again=True).videos[0])

    (first,) = named(options)
    assert repeated() == first, "nothing was begun"
    Path("outputs").mkdir()
    Path(first).touch()
    assert repeated() == first, "finished"
    second = first.replace(".mp4", "-2.mp4")
    JobFolder.beside(Path(second)).write(replace(options, videos=[Path(second)]), config)
    assert repeated() == second, "begun"
    Path(second).touch()
    assert repeated() == second, "finished, and not yet cleaned up"


def test_a_job_folder_keeps_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_job_config(CONFIG, [], print)
    options = with_video_names(Options(CONFIG, ["a", "b"]), config)
    folder = JobFolder.beside(options.video_path)
    folder.write(options, config)
    Path(options.videos[1]).touch()  # of the run itself, which finished that one
    read = folder.read(())
    assert read.videos == tuple(tmp_path / video for video in options.videos)
    tasks = with_video_names(read, config).tasks(config, Outputs(read.video_path, read.report_path))
    assert [task.outputs.video for task in tasks] == list(read.videos)
    assert [task.outputs.report for task in tasks] == [video.with_suffix(".json") for video in read.videos]
    assert not any(task.outputs.replaces for task in tasks)


def test_options_of_earlier_versions_have_no_names() -> None:
    values = json.loads(options_to_json(Options(CONFIG, ["a"], output=Path("o.mp4"))))
    del values["videos"]
    assert options_from_json(json.dumps(values)) == Options(CONFIG, ("a",), output=Path("o.mp4"), seeds=(0,))


def test_jobs_of_a_queue_have_names_that_no_other_job_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    queue = Submissions(tmp_path / "state")
    options = Options(CONFIG, ["a"], seeds=[0, 1])
    queue.submit(prepare_jobs(options, queue.claims))
    queue.submit(prepare_jobs(options, queue.claims))
    videos = [job.video for job in queue.jobs()]
    assert len(set(videos)) == 4 and all(video.is_absolute() for video in videos)
    assert [video.stem[-2:] for video in videos[2:]] == ["-2", "-2"]
    with pytest.raises(InvalidInput, match="will be written by job 1"):
        queue.submit(prepare_jobs(replace(options, output=videos[0], seeds=[0]), queue.claims))


def test_parents_behind_a_link_are_those_of_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/inner")
    real = tmp_path.resolve()
    assert without_parents(Path("link/../x.mp4")) == real / "far" / "x.mp4"
    assert without_parents(tmp_path / "link" / ".." / ".." / "x.mp4") == tmp_path / "x.mp4"
    assert without_parents(Path("../x.mp4")) == Path("../x.mp4")
    assert without_parents(Path("far/../x.mp4")) == Path("x.mp4")
    assert without_parents(Path("new/../x.mp4")) == Path("x.mp4")
    assert without_parents(Path("a/b.mp4")) == Path("a/b.mp4")
    assert without_parents(Path("a\0/../b")) == Path("a\0/../b")


def test_paths_of_a_configuration_mean_what_the_shell_means(tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "model").mkdir()
    (tmp_path / "link").symlink_to("far/inner")
    tree = {"model": {"path": "link/../model"}}
    anchor_paths(tree, tmp_path)
    assert Path(tree["model"]["path"]).samefile(tmp_path / "far" / "model")


def test_an_output_that_is_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target, link, chain = tmp_path / "disk" / "target.mp4", tmp_path / "link.mp4", tmp_path / "chain.mp4"
    link.symlink_to("disk/target.mp4")
    chain.symlink_to(link)
    check_outputs(Outputs(chain), tmp_path / "model")
    for path, text in ((link, "first"), (chain, "second")):
        with StagedFiles() as files:
            staged = files.stage(path)
            assert staged.parent.resolve() == target.parent.resolve(), "a rename needs one file system"
            staged.write_text(text)
        assert path.is_symlink() and target.read_text() == text
    assert sorted(os.listdir(tmp_path / "disk")) == ["target.mp4"]


def test_a_link_into_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link.mp4").symlink_to("file/target.mp4")
    with pytest.raises(InvalidInput, match="is a file, not a folder"):
        check_outputs(Outputs(tmp_path / "link.mp4"), tmp_path / "model")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(InvalidInput, match=r"loop\.mp4"):
        check_outputs(Outputs(tmp_path / "loop.mp4"), tmp_path / "model")


def test_a_file_beside_the_video_that_is_no_report_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options(CONFIG, ["a"], output=tmp_path / "a.mp4")
    queue = Submissions(tmp_path / "state")
    notes = tmp_path / "a.json"
    for content in ('{"my": "notes"}', "[1]", "no JSON", "[" * 100_000):
        notes.write_text(content)
        for check in (lambda: prepare(options, Place(1)), lambda: prepare_jobs(options, queue.claims)):
            with pytest.raises(InvalidInput, match=r"a\.json, where the run report would be written"):
                check()
    prepare(replace(options, report=notes), Place(1))
    notes.write_text('{"schema": 1, "steps": [], "output": {}}')
    prepare(options, Place(1))


def test_a_folder_in_the_place_of_the_checkpoints_is_kept(tmp_path: Path) -> None:
    options = Options(CONFIG, ["a"], output=tmp_path / "a.mp4", overrides=["checkpoint.every=2"])
    (tmp_path / "a.checkpoint").mkdir()
    prepare(options, Place(1))
    (tmp_path / "a.checkpoint" / "weights.pt").touch()
    for resume in Resume:
        with pytest.raises(InvalidInput, match=r"a\.checkpoint, where checkpoints would be written, holds other files"):
            prepare(options, Place(1), resume)
