"""Whole runs from the command line: one rank, several, and torchrun."""

import shutil
import sys

import pytest
from PIL import Image

from tests.support.checkpoints import write_image_checkpoint
from tests.support.shell import Shell, actions, finish, report_of

pytestmark = pytest.mark.timeout(300)


def test_one_rank_two_ranks_and_torchrun_give_the_same(shell: Shell) -> None:
    prompt = '--prompt=a ${local_rank} $$ @ -- "quoted" \u25cf circle'  # elastic would substitute in it
    escaped = prompt.replace("$", "$$")  # torchrun substitutes in arguments; `lockstep generate` must not

    def command(name: str) -> list[str]:
        return shell.options(escaped, "--seed=7", "--launcher=torchrun", f"--output=new/{name}")

    runs = {
        "one.mp4": lambda name: shell.generate(prompt, "--seed=7", "--ranks=1", f"--output=new/{name}"),
        "two.mp4": lambda name: shell.generate(prompt, "--seed=7", "--ranks=2", "--audit", f"--output=new/{name}"),
        "torchrun.mp4": lambda name: shell.torchrun_of(2, "launch", "generate", *command(name)),
    }
    reports = {}
    for name, start in runs.items():
        out, err = finish(start(name))
        assert f"new/{name}" in out and "computed" in out and "skipped" in out and "speed-up" in out
        assert "Gloo" not in out + err and "Warning" not in out + err, "libraries spoke on the terminal"
        assert (shell.folder / "new" / name).stat().st_size > 0
        reports[name] = report_of(shell.folder / "new" / name)
    assert [report["world_size"] for report in reports.values()] == [1, 2, 2]
    one, two, torchrun = reports.values()
    audited = ["audit" in report["totals"]["collective_bytes_by_kind"] for report in (two, torchrun)]
    assert audited == [True, False]
    assert two["request"] == torchrun["request"]
    layouts = [report["request"].pop("parallel") for report in (one, two)]
    resolved = [report["layout"] | {"shard_weights": False} for report in (one, two)]
    assert layouts == resolved, "the request holds the resolved degrees"
    assert one["request"] == {key: value for key, value in torchrun["request"].items() if key != "parallel"}
    assert two["output"]["latents_sha256"] == torchrun["output"]["latents_sha256"]
    assert actions(one) == actions(two) == actions(torchrun)
    assert one["request"]["prompt"] == prompt.removeprefix("--prompt=")


def test_defaults_of_output_report_and_ranks(shell: Shell) -> None:
    arguments = ("--latents=l/x.safetensors", "--set=parallel.shard_weights=true")
    out, err = finish(shell.generate("--prompt=A Red circle!", *arguments))
    (video,) = (shell.folder / "outputs").glob("a-red-circle-seed0-????????.mp4")
    report = report_of(video)
    assert report["world_size"] == 1
    assert (shell.folder / "l" / "x.safetensors").is_file()
    assert f"outputs/{video.name}" in out
    assert "parallel.shard_weights changes nothing here" in err, "what one rank holds alone"
    assert report["request"]["parallel"]["shard_weights"] is False


@pytest.mark.slow
def test_for_throughput_ranks_are_replicas_first(shell: Shell) -> None:
    """The videos are those that all ranks would have made together."""
    prompts = ("--prompt=a red circle", "--prompt=a blue square", "--set=parallel=auto", "--ranks=2")
    _, err = finish(shell.generate(*prompts, "--goal=throughput", "--output=many.mp4"))
    assert "data 2: The goal is throughput, and there are 2 videos to make" in err
    finish(shell.generate(*prompts, "--goal=latency", "--output=fast.mp4"))
    for number in range(2):
        many, fast = (report_of(shell.folder / f"{name}-{number}.mp4") for name in ("many", "fast"))
        assert (many["layout"]["data"], fast["layout"]["data"]) == (2, 1)
        assert actions(many) == actions(fast)
        assert many["output"]["latents_sha256"] == fast["output"]["latents_sha256"], "cfg 2 computes each branch whole"


@pytest.mark.slow
def test_a_list_of_prompts_and_seeds_over_replicas(shell: Shell) -> None:
    """Beside a folder that is named like our package, which is not taken for it."""
    (shell.folder / "engine").mkdir()
    (shell.folder / "engine" / "__init__.py").write_text("raise SystemExit('the wrong engine')")
    (shell.folder / "list.txt").write_text("a red circle\n\na blue square\n", encoding="utf-8")
    arguments = ["--prompts=list.txt", "--seed=3", "--seed=4", "--ranks=2", "--set=parallel.data=2"]
    # like the installed command, which does not look for modules where the user stands
    command = [sys.executable, "-P", "-c", "from launch.cli import main; main()", "generate"]
    out, _ = finish(shell.start([*command, *shell.options(*arguments, "--output=two/v.mp4")]))
    shutil.rmtree(shell.folder / "engine")
    finish(shell.generate("--prompt=a blue square", "--seed=3", "--output=one.mp4"))
    names = [f"two/v-{index}.mp4" for index in range(4)]
    assert [line.split()[2] for line in out.splitlines() if line.startswith("video")] == names
    reports = [report_of(shell.folder / name) for name in names]
    asked = [(report["request"]["prompt"], report["request"]["seed"]) for report in reports]
    assert asked == [("a red circle", 3), ("a red circle", 4), ("a blue square", 3), ("a blue square", 4)]
    assert all(report["layout"]["data"] == 2 for report in reports)
    alone = report_of(shell.folder / "one.mp4")
    assert alone["output"]["latents_sha256"] == reports[2]["output"]["latents_sha256"]
    assert alone["output"]["frames_sha256"] == reports[2]["output"]["frames_sha256"]


@pytest.mark.slow
def test_an_image_on_one_rank_and_on_two_that_are_laid_out_for_the_machine(shell: Shell) -> None:
    shell.model = write_image_checkpoint(shell.folder / "model", "Wan2.1-FLF2V-14B")
    for name, colour in (("a first.png", "navy"), ("last.jpg", "orange")):
        Image.new("RGB", (40, 50), colour).save(shell.folder / name)
    images = ["--image=a first.png", "--last-image=last.jpg", "--set=sampling.steps=3"]
    out, err = finish(shell.generate("--prompt=x", *images, "--ranks=1", "--output=one.mp4"))
    assert "torchvision" not in out + err, "libraries spoke on the terminal"
    _, err = finish(shell.generate("--prompt=x", *images, "--ranks=2", "--output=two.mp4", "--set=parallel=auto"))
    assert [line for line in err.splitlines() if line.startswith(("layout", "  "))] == [
        "layout: cfg 2",
        "  cfg 2: The 2 guidance branches run on 1 rank each and exchange one velocity a step, the least that any axis "
        "sends.",
        "  ulysses 1: One rank holds a whole sequence.",
        "  ring 1: One rank holds a whole sequence.",
    ], "said once"
    one, two = (report_of(shell.folder / name) for name in ("one.mp4", "two.mp4"))
    assert one["request"]["image"] == two["request"]["image"] == "a first.png"
    assert one["request"]["last_image"] == "last.jpg"
    assert two["layout"] == {"data": 1, "cfg": 2, "ulysses": 1, "ring": 1}
    assert two["request"]["parallel"] == two["layout"] | {"shard_weights": False}
    assert two["world_size"] == 2 and actions(one) == actions(two)
    assert (shell.folder / "two.mp4").stat().st_size > 0
