"""`lockstep bench` as a person runs it."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from launch.bench.document import BenchDocument
from tests.support.shell import Refused, Shell, finish

pytestmark = pytest.mark.timeout(300)

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "nothing": ([], ["CONFIG", "--compare"]),
    "no folder": (["{config}"], ["--output"]),
    "rounds": (["{config}", "--output=o", "--rounds=0"], ["--rounds is 0"]),
    "no number": (["{config}", "--output=o", "--rounds=many"], ["'many'"]),
    "warmup": (["{config}", "--output=o", "--warmup=-1"], ["--warmup is -1"]),
    "prompts": (["{config}", "--output=o", "--prompts=no.txt"], ["no.txt"]),
    "fewer prompts than replicas": (
        ["{config}", "--output=o", "--prompts=one.txt", "--set=parallel.data=2", "--ranks=2"],
        ["parallel.data is 2", "1 video"],
    ),
    "a file": (["{config}", "--output=one.txt"], ["one.txt", "file"]),
    "results": (["{config}", "--output=done"], ["done", "already"]),
    "checkpoints": (["{config}", "--output=o", "--set=checkpoint.every=2"], ["checkpoint.every is 2"]),
    "another layout": (["{config}", "--output=o", "--against=other.yaml"], ["--against", "parallel.cfg"]),
    "no reference": (["{config}", "--output=o", "--against=no.yaml"], ["no.yaml"]),
    "no build": (["{config}", "--output=o", "--against-build=nowhere"], ["'nowhere'", "no folder"]),
    "not a build": (["{config}", "--output=o", "--against-build=done"], ["pyproject.toml of lockstep-video"]),
    "an older build": (["{config}", "--output=o", "--against-build=old"], ["before builds could take turns"]),
    "two others": (
        ["{config}", "--output=o", "--against-build=old", "--against={config}"],
        ["--against is", "--against-build is 'old'"],
    ),
    "replicas beside a build": (
        ["{config}", "--output=o", "--against-build=old", "--set=parallel.data=2", "--prompts=two.txt", "--ranks=2"],
        ["parallel.data is 2", "--against-build"],
    ),
    "a build on a cluster": (["{config}", "--output=o", "--against-build=old", "--launcher=ray"], ["Ray starts them"]),
    "turns of nobody": (["{config}", "--output=o", "--turns=127.0.0.1:9"], ["--turns is", "--against-build"]),
    "scale and ranks": (["{config}", "--output=o", "--scale=1,2", "--ranks=2"], ["--ranks is 2", "--scale"]),
    "scale that the layout cannot": (
        ["{config}", "--output=o", "--scale=1,2", "--set=parallel.ulysses=2"],
        ["ulysses"],
    ),
    "scale on a cluster without ray": (
        ["{config}", "--output=o", "--scale=1,2", "--ray-address=a:1"],
        ["--ray-address", "add --launcher ray"],
    ),
    "compare and measure": (["{config}", "--compare", "a", "b"], ["CONFIG"]),
    "compare nothing": (["--compare", "a", "b"], ["'a'"]),
    "share of nothing": (["{config}", "--output=o", "--slower-by=0.1"], ["--slower-by", "--compare"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_loads(case: str, shell: Shell, refused: Refused) -> None:
    arguments, words = REFUSED[case]
    config, *sets = shell.options()
    (shell.folder / "one.txt").write_text("a red circle\n")
    (shell.folder / "two.txt").write_text("a red circle\na blue square\n")
    (shell.folder / "done").mkdir()
    (shell.folder / "old" / "launch").mkdir(parents=True)
    (shell.folder / "old" / "pyproject.toml").write_text('[project]\nname = "lockstep-video"\nversion = "0.0.1"\n')
    (shell.folder / "done" / "bench.json").write_text("{}")
    (shell.folder / "other.yaml").write_text(
        f"model: {{path: {shell.model}}}\nsampling: {{height: 32, width: 32, frames: 5, steps: 8}}\n"
        "parallel: {cfg: 2}\nruntime: {device: cpu}\n"
    )
    ranks = ["--ranks=2"] if case == "another layout" else []
    given = [word.replace("{config}", config) for word in arguments]
    line = refused(["bench", *given, *(sets if config in given and "--compare" not in given else []), *ranks])
    assert all(word in line for word in words), line
    assert not (shell.folder / "o").exists()


def read(folder: Path) -> BenchDocument:
    return BenchDocument.model_validate_json((folder / "bench.json").read_text())


def test_two_ranks_fill_every_field(shell: Shell) -> None:
    out, err = finish(
        shell.lockstep("bench", *shell.options("--output=o", "--rounds=2", "--ranks=2", "--set=cache.threshold=1"))
    )
    folder = shell.folder / "o"
    written = json.loads((folder / "bench.json").read_text())
    assert written["schema"] == 1 and written["startup_seconds"]["import"] > 0
    results = read(folder)
    off, gain = results.cache_off, results.cache_gain
    assert off and gain and gain.psnr_db and 10 < gain.psnr_db.median < 100
    assert results.world_size == 2 and results.layout["ulysses"] == 2 and results.videos == off.videos == 2
    assert results.seconds_per_video.median * results.videos_per_hour == pytest.approx(3600, rel=0.3)
    assert results.steps.computed and results.steps.skipped and off.steps.skipped is None
    assert results.steps_computed + results.steps_skipped == 8 == off.steps_computed
    assert results.skew and results.agreement_microseconds and results.agreement_microseconds.median > 0
    assert results.collective_bytes_by_kind["all_to_all"] < off.collective_bytes_by_kind["all_to_all"]
    assert results.collective_bytes_by_kind.keys() >= {"agreement", "all_gather", "broadcast"}
    assert results.collective_seconds_by_kind["all_to_all"] > 0
    assert results.flops and off.flops and 0 < results.flops.per_video < off.flops.per_video
    assert results.flops.peak_per_second_per_rank and 0 < (off.flops.share_of_peak or 0) < 1
    assert results.cache_bytes > 0 == off.cache_bytes and results.peak_memory_bytes > 0
    assert [row.rank for row in results.ranks] == [0, 1]
    for sample in results.samples:
        stages = sum(seconds for stage, seconds in sample.seconds.items() if stage != "total")
        assert stages <= sample.seconds["total"] * 1.05 and len(sample.step_seconds) == 8
        assert sample.reference_seconds and sample.idle_seconds["total"] >= 0
    assert len({sample.latents_sha256 for sample in results.samples}) == 1, "the same video in every round"
    assert results.made_with["config"]["sampling"]["steps"] == 8 and results.made_with["prompts"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["bench.json", "bench.md", "stages.png", "stages.svg", "steps.png", "steps.svg"]
    ), "no video, and no scratch"
    assert "an hour" in out and "written to o: bench.json" in out and "round 2 of 2, cache off" in err


@pytest.mark.slow
def test_replicas_share_the_prompts_and_a_reference_takes_turns(shell: Shell) -> None:
    (shell.folder / "prompts.txt").write_text("a red circle\na blue square\n")
    config, *sets = shell.options()
    reference = shell.folder / "reference.yaml"
    reference.write_text(
        f"model: {{path: {shell.model}}}\nsampling: {{height: 32, width: 32, frames: 5, steps: 4, fps: 8}}\n"
        "cache: {method: none}\nparallel: {data: 2}\nruntime: {device: cpu}\n"
    )
    given = ["--output=o", "--prompts=prompts.txt", "--rounds=2", "--ranks=2", "--set=parallel.data=2"]
    given += ["--keep-videos", "--trace", f"--against={reference}"]
    finish(shell.lockstep("bench", config, *sets, *given))
    results = read(shell.folder / "o")
    assert results.against and results.against.videos == 4 and results.against.steps_computed == 4
    assert results.seconds_per_video.median * results.videos_per_hour == pytest.approx(7200, rel=0.5)
    assert {sample.replica for sample in results.samples} == {0, 1} and results.skew is None
    assert {(sample.prompt, sample.seed) for sample in results.samples} == {(0, 0), (1, 1)}
    assert len(list((shell.folder / "o" / "videos").glob("*.mp4"))) == 12
    assert len(list((shell.folder / "o").glob("trace-rank*.json.gz"))) == 2


@pytest.mark.slow
def test_scale_and_torchrun(shell: Shell) -> None:
    _out, err = finish(shell.lockstep("bench", *shell.options("--output=o", "--rounds=1", "--scale=2,1")))
    results = read(shell.folder / "o")
    assert [row.world_size for row in results.scale] == [1, 2] and results.world_size == 2
    assert results.scale[0].speedup_on == 1 and results.scale[1].speedup_off and results.scale[1].efficiency_on > 0
    assert (shell.folder / "o" / "scaling.svg").is_file() and read(shell.folder / "o" / "ranks-1").world_size == 1
    given = shell.options("--output=t", "--rounds=1")
    finish(shell.torchrun_of(2, "launch", "bench", *given))
    assert read(shell.folder / "t").collective_bytes_by_kind == results.collective_bytes_by_kind
    _, err = shell.torchrun_of(2, "launch", "bench", *given, "--scale=1,2").communicate(timeout=100)
    assert [line for line in err.splitlines() if line.startswith("lockstep: --scale is 1,2")]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_and_a_killed_rank_leave_no_results(ranks: int, shell: Shell) -> None:
    given = shell.options("--output=o", f"--ranks={ranks}", "--set=sampling.steps=1000")
    process = shell.lockstep("bench", *given)
    shell.await_line(process, "warm-up 1 of 1")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    shell.await_nobody(seconds=1)
    assert not (shell.folder / "o" / "bench.json").exists()
    shutil.rmtree(shell.folder / "o")
    process = shell.lockstep("bench", *given, fault=f"{ranks - 1} 3 kill")
    out, _err = process.communicate(timeout=100)
    assert process.returncode != 0 and out == ""
    assert not (shell.folder / "o" / "bench.json").exists()
    shell.await_nobody(seconds=1)
