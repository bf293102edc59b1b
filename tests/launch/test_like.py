"""`lockstep show` and `--like`: a video says what it was made from, and can be made again by that alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from engine.config import Config
from engine.errors import InvalidInput
from engine.media.comment import read_comment
from engine.request import Outputs, make_request
from launch.jobs.config import JobConfig, load_job_config
from launch.jobs.like import differences_from, options_like
from launch.queue.store import Queue
from launch.screens.job_words import one_line
from tests.support.shell import Refused, Shell, finish, hashes, report_of
from tests.support.small_model import CONFIG, PROMPT, ROOT, tiny_config
from tests.support.tagged import DONE, put, tagged, with_comment
from tests.support.typed import Command

MADE_WITH = (
    "cache.method=magcache",
    "cache.threshold=0.07",
    "cache.max_consecutive_skips=3",
    "sampling.shift=1e-1",
    "sampling.low_noise_guidance=2.5",
    "sampling.background='#ff8000'",
    "runtime.deterministic=true",
    "runtime.attention=sdpa",
    "model.vae_tiling=true",
)


def made_by(video: Path, config: str | None = None, *overrides: str) -> JobConfig:
    """The configuration with which a video would be made again."""
    options = options_like(video, config, overrides)
    return load_job_config(options.config, options.settings)


def numbers(config: Config) -> list[object]:
    """What of a configuration changes the numbers of a video."""
    runtime = (config.runtime.attention, config.runtime.deterministic, config.runtime.compile, config.runtime.tf32)
    return [config.sampling, config.cache, config.model, runtime]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("named", [str(CONFIG), None], ids=["CONFIG", "no CONFIG"])
@pytest.mark.parametrize("overrides", [(), MADE_WITH, ("cache.method=none",)], ids=["as it is", "others", "no cache"])
def test_the_settings_of_a_video(named: str | None, overrides: tuple[str, ...], folder: Path) -> None:
    config = tiny_config(*overrides)
    tagged(folder / "v.mp4", config=config)
    options = options_like(folder / "v.mp4", named)
    assert (options.prompts, options.negative_prompt, options.seeds) == ((PROMPT,), "blurred", (7,))
    assert Path(options.config).samefile(CONFIG)
    assert numbers(made_by(folder / "v.mp4", named)) == numbers(config)


def test_the_command_line_wins(folder: Path) -> None:
    tagged(folder / "v.mp4", *MADE_WITH)
    video, config = folder / "v.mp4", str(CONFIG)
    again = made_by(video, config, "sampling.steps=5", "runtime.attention=auto", "model.dtype=auto", "parallel.cfg=2")
    assert (again.sampling.steps, again.runtime.attention, again.model.dtype) == (5, "auto", "auto")
    assert again.parallel.cfg == 2 and again.sampling.shift == 0.1 and again.cache.threshold == 0.07
    assert made_by(video, config, "cache.threshold=0.02").cache.threshold == 0.02
    assert made_by(video, config, "cache.threshold=0.02").cache.max_consecutive_skips == 3
    assert made_by(video, config, "cache.method=none").cache.method == "none"
    other = made_by(video, config, "cache.method=teacache").cache
    assert other == load_job_config(CONFIG, ["cache.method=teacache"]).cache, "keys of the other method do not stay"
    with pytest.raises(InvalidInput, match=r"Unknown key cache\.thresold"):
        made_by(video, config, "cache.thresold=1")


def test_files_are_those_of_the_configuration(folder: Path) -> None:
    tagged(folder / "v.mp4")
    own = yaml.safe_load(CONFIG.read_text())
    own["model"]["path"], own["runtime"] = str(ROOT / "configs" / "tiny_wan"), {"step_timeout_seconds": 7}
    del own["cache"]["calibration"]
    (folder / "own.yaml").write_text(yaml.safe_dump(own))
    again = made_by(folder / "v.mp4", "own.yaml")
    assert again.cache.calibration is None and again.runtime.step_timeout_seconds == 7
    tagged(folder / "v.mp4", change=lambda text: put(text, "0" * 64, "request", "cache", "replay"))
    with pytest.raises(InvalidInput, match=r"--like is 'v.mp4', which repeats .*--set cache.replay=REPORT"):
        made_by(Path("v.mp4"), str(CONFIG))
    assert made_by(Path("v.mp4"), str(CONFIG), "cache.replay=r.json").cache.replay == folder / "r.json"
    assert made_by(Path("v.mp4"), str(CONFIG), "cache.method=none").cache.replay is None


def test_no_configuration_of_the_model(folder: Path) -> None:
    """A model is looked for among those of configs/, by its name; the name is never used as a path."""
    shutil.copytree(ROOT / "configs" / "tiny_wan", folder / "here", ignore=shutil.ignore_patterns("recipe"))
    for name in ("here", str(folder / "here"), "../configs/tiny_wan/x", "someone/else", ""):
        tagged(folder / "v.mp4", change=lambda text, name=name: put(text, name, "model", "name"))
        with pytest.raises(InvalidInput, match="There is no CONFIG, and none in configs/ is of the model"):
            options_like(folder / "v.mp4", None)
        assert options_like(folder / "v.mp4", str(CONFIG)).config == str(CONFIG)
    own = yaml.safe_load(CONFIG.read_text()) | {"cache": {"method": "none"}}
    own["model"]["path"] = str(folder / "here")
    (folder / "configs").mkdir()
    for name in ("a.yaml", "b.yaml"):
        (folder / "configs" / name).write_text(yaml.safe_dump(own))
        tagged(folder / "v.mp4", change=lambda text: put(text, "here", "model", "name"))
        if name == "a.yaml":
            assert options_like(folder / "v.mp4", None).config == "configs/a.yaml"
    with pytest.raises(InvalidInput, match=r"configs/a.yaml and configs/b.yaml are of the model 'here'"):
        options_like(folder / "v.mp4", None)
    tagged(folder / "v.mp4", change=lambda text: put(text, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers@0", "model", "name"))
    with pytest.raises(InvalidInput, match="There is no CONFIG"):
        options_like(folder / "v.mp4", None)
    assert options_like(folder / "v.mp4", None, ["model.path=here"]).config.endswith("wan2.1-t2v-1.3b.yaml")


def test_images_do_not_travel(folder: Path) -> None:
    config = tiny_config()
    (folder / "first.png").write_bytes(b"an image")
    request = make_request([PROMPT], "", 0, config.sampling, Path("first.png"), Path("first.png"))
    tagged(folder / "v.mp4", config=config, request=request)
    image = Path("first.png")
    for given, option in (((), "--image"), ((image,), "--last-image")):
        with pytest.raises(InvalidInput, match=f"made from an image, and none is in its tag: give it with {option}"):
            options_like(folder / "v.mp4", str(CONFIG), (), *given)
    assert options_like(folder / "v.mp4", str(CONFIG), (), image, image).prompts == (PROMPT,)


@pytest.mark.parametrize(("change", "word"), [(("samples", 3), "with 2 others"), (("noise", "given"), "from noise")])
def test_what_only_a_program_can_make_again(change: tuple[str, object], word: str, folder: Path) -> None:
    tagged(folder / "v.mp4", change=lambda text: put(text, change[1], "request", change[0]))
    with pytest.raises(InvalidInput, match=word):
        options_like(folder / "v.mp4", str(CONFIG))


def test_what_differs_here_is_said(folder: Path) -> None:
    config = tiny_config()
    tagged(folder / "v.mp4")
    options = options_like(Path("v.mp4"), str(CONFIG))
    tasks = options.tasks(config, Outputs(folder / "out.mp4"))
    assert (
        differences_from(options, config, tasks) == differences_from(replace(options, like=None), config, tasks) == []
    )
    versions = {"python": "2.7", "torch": "1.0"}
    tagged(folder / "v.mp4", change=lambda text: put(put(text, versions, "versions"), "f" * 64, "model", "files"))
    model, other = differences_from(options, config, tasks)
    assert model == "the model is not the one that made v.mp4 (tiny_wan: files differ)"
    assert other.startswith("v.mp4 was made with other versions (python 2.7, now 3") and "torch 1.0, now 2" in other
    tagged(folder / "v.mp4", change=lambda text: put(text, "f" * 64, "request", "cache", "calibration"))
    assert differences_from(options, config, tasks) == ["cache.calibration is not what v.mp4 was made with"]
    (folder / "v.mp4").unlink()
    assert differences_from(options, config, tasks) == []


def test_shown(typed: Command, folder: Path) -> None:
    prompt = "a \x1b[31mred\x1b[0m circle\non \u202enavy " + "and on " * 1400
    tagged(folder / "v.mp4", *MADE_WITH, prompt=prompt)
    said = typed("show", "v.mp4")
    assert said.code == 0 and said.err == ""
    assert said.out.replace("\n", "").isprintable(), "a terminal would follow what the prompt holds"
    lines = {line[:9].strip(): line[10:] for line in said.out.splitlines() if line[:9].strip()}
    assert lines["prompt"] == prompt.replace("\x1b", "\ufffd").replace("\n", " ").replace("\u202e", "\ufffd")
    assert lines["seed"] == "7" and lines["negative"] == "blurred"
    assert lines["size"] == "64x64, 17 frames, 8 frames per second"
    assert lines["steps"] == "2 computed, 2 skipped; 60.0% of the blocks ran"
    assert lines["latents"] == f"SHA-256 {DONE.latents_sha256}"
    assert "method=magcache" in lines["cache"] and "threshold=0.07" in lines["cache"]
    assert lines["model"].startswith("tiny_wan, fingerprint ") and "torch 2" in lines["versions"]
    assert "runtime.metadata" not in said.out and str(ROOT) not in said.out


def test_refused_in_a_sentence(refused: Refused, shell: Shell) -> None:
    with_comment(shell.folder / "plain.mp4", None)
    tagged(shell.folder / "late.mp4", change=lambda text: put(text, 9, "schema"))
    (shell.folder / "text.mp4").write_text("no video")
    (shell.folder / "empty.mp4").touch()
    words = {
        "plain.mp4": "does not say",
        "late.mp4": "schema 9",
        "text.mp4": "no MP4",
        "empty.mp4": "empty",
        "no.mp4": "No such",
    }
    for name, word in words.items():
        assert name in (line := refused(["show", name])) and word in line
        assert name in (line := refused(["generate", f"--like={name}"])) and word in line
        assert name in (line := refused(["submit", str(CONFIG), f"--like={name}"])) and word in line
    assert "There is no CONFIG" in refused(["generate", "--prompt=x"])
    assert "There is no CONFIG" in refused(["submit", "--prompt=x"])


def test_the_queue_keeps_it(typed: Command, queue: Queue, tiny_checkpoint: Path, folder: Path) -> None:
    tagged(folder / "v.mp4", "sampling.steps=6", "sampling.frames=5", "sampling.height=32", "sampling.width=32")
    model = f"--set=model.path={tiny_checkpoint}"
    said = typed("submit", str(CONFIG), "--like=v.mp4", model, "--seed=3", "--no-metadata", "--output=w.mp4")
    assert said.code == 0, said.err
    assert "the model is not the one that made v.mp4 (tiny_wan: files differ)" in said.err
    (job,) = queue.jobs()
    assert one_line(job.prompt) == PROMPT and job.options.seeds == (3,) and job.options.like is None
    config = job.parsed_config
    assert config.sampling.steps == 6 and config.runtime.metadata is False


@pytest.mark.timeout(300)
def test_a_video_is_made_again(shell: Shell, typed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = 'a red "circle"\nmoving \x1b[1mright'
    first = shell.generate(f"--prompt={prompt}", "--seed=7", "--output=a.mp4", "--set=cache.threshold=0.3")
    finish(first)
    folder, model = shell.folder, f"--set=model.path={shell.model}"
    arguments = (str(CONFIG), model, "--set=runtime.device=cpu", "--like=a.mp4")
    again = shell.lockstep("generate", *arguments, "--output=b.mp4")
    assert "made with other versions" not in finish(again)[1]
    assert hashes(folder / "a.mp4") == hashes(folder / "b.mp4")
    assert (folder / "a.mp4").read_bytes() == (folder / "b.mp4").read_bytes(), "the tag is the same too"
    assert report_of(folder / "b.mp4")["request"]["prompt"] == prompt
    monkeypatch.chdir(folder)
    shown = typed("show", "a.mp4").out
    totals = report_of(folder / "a.mp4")
    skipped = sum(row["action"] == "skip" and row["branch"] == "cond" for row in totals["steps"])
    assert skipped and f"{8 - skipped} computed, {skipped} skipped" in shown
    assert totals["output"]["latents_sha256"] in shown and "\x1b" not in shown
    assert str(folder) not in shown and str(folder).encode() not in (folder / "a.mp4").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_launcher(shell: Shell) -> None:
    """The tag is the same whoever starts the ranks, and left out by all."""
    finish(shell.generate("--prompt=a circle", "--ranks=2", "--output=local.mp4"))
    again = ("--like=local.mp4", "--prompt=a square")
    finish(shell.generate(*again, "--ranks=2", "--output=again.mp4"))
    finish(shell.torchrun(2, *again, "--output=torchrun.mp4"))
    finish(shell.torchrun(2, *again, "--no-metadata", "--output=bare.mp4"))
    finish(shell.generate(*again, "--ranks=2", "--no-metadata", "--output=bare-too.mp4"))
    for name in ("torchrun.mp4", "bare.mp4", "bare-too.mp4"):
        assert hashes(shell.folder / name) == hashes(shell.folder / "again.mp4")
    assert hashes(shell.folder / "again.mp4") != hashes(shell.folder / "local.mp4")
    tags = [read_comment(shell.folder / f"{name}.mp4") for name in ("again", "torchrun", "bare", "bare-too")]
    assert tags[0] == tags[1] and '"a square"' in (tags[0] or "") and tags[2:] == [None, None]
