"""`lockstep bench --mlperf` as a person runs it, on the reduced model."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.bench.document import BenchDocument
from tests.support.shell import Shell, await_file, finish

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
PROMPTS = ["a red circle", "a blue square", "a green triangle", "a white circle"]


def start(shell: Shell, scenario: str, *arguments: str) -> subprocess.Popen[str]:
    (shell.folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    given = (f"--mlperf={scenario}", "--prompts=prompts.txt", "--output=results")
    settings = ("sampling.steps=5", "mlperf.min_duration_seconds=1", "cache.threshold=5")
    return shell.lockstep("bench", *shell.options(*given, *(f"--set={each}" for each in settings), *arguments))


def results(shell: Shell) -> dict:
    return json.loads((shell.folder / "results" / "mlperf.json").read_text())


def bench(shell: Shell) -> BenchDocument:
    return BenchDocument.model_validate_json((shell.folder / "results" / "bench.json").read_text())


def check(shell: Shell, document: dict) -> None:
    measured = bench(shell)
    off, gain = measured.cache_off, measured.cache_gain
    assert off and gain and gain.psnr_db and 5 < gain.psnr_db.median < 100
    assert (measured.videos, off.videos) == tuple(document[name]["samples"] for name in ("cache_on", "cache_off"))
    for name, each in (("cache_on", measured), ("cache_off", off)):
        stages, seconds = document[name]["median_seconds"], {key: each.stages[key].median for key in each.stages}
        assert seconds["encode"] == pytest.approx(stages["encode"], rel=0.2, abs=0.05) and seconds["denoise"] > 0
        assert seconds["decode"] == pytest.approx(stages["decode"], rel=0.2, abs=0.05)
        assert each.seconds_per_video.median == pytest.approx(stages["video"], rel=0.2, abs=0.1)
        assert each.steps_computed + each.steps_skipped == pytest.approx(5)
        assert each.block_fraction == pytest.approx(document[name]["block_fraction"])
        assert each.flops and each.flops.by_stage.keys() == {"encode", "denoise", "decode"}
    assert measured.flops and off.flops and measured.flops.per_video < off.flops.per_video
    for name in ("cache_off", "cache_on"):
        assert document[name]["valid"] and document[name]["faults"] == []
        assert "Result is : VALID" in (shell.folder / "results" / name / "mlperf_log_summary.txt").read_text()
    assert document["cache_off"]["division"] == "closed rules" and document["cache_on"]["division"] == "open"
    assert document["cache_off"]["steps_skipped"] == 0 < document["cache_on"]["steps_skipped"]
    for row in document["psnr_db"]["prompts"]:
        assert row["prompt"] in PROMPTS and 5 < row["psnr_db"] < 100
    assert not (shell.folder / "results" / "latents").exists()


def test_singlestream_on_two_ranks(shell: Shell) -> None:
    out, _ = finish(start(shell, "singlestream", "--ranks=2"))
    document = results(shell)
    check(shell, document)
    assert document["made_with"]["world_size"] == 2 and document["cache_off"]["samples"] >= 64
    assert document["cache_off"]["result"]["latency_p90_seconds"] > 0
    assert bench(shell).skew and bench(shell).collective_bytes_by_kind["agreement"] > 0
    assert (shell.folder / "results" / "mlperf.md").read_text() in out
    assert any("sampling.steps is 5" in line for line in document["departures_from_the_standard"])


def test_offline_shares_samples_over_replicas(shell: Shell) -> None:
    finish(start(shell, "offline", "--ranks=2", "--set=parallel.data=2", "--set=mlperf.queries=12"))
    document = results(shell)
    check(shell, document)
    for name in ("cache_off", "cache_on"):
        shared = document[name]["samples_by_replica"]
        assert len(shared) == 2 and min(shared) >= 1 and sum(shared) == document[name]["samples"] >= 12
    assert len(document["psnr_db"]["prompts"]) == len(PROMPTS)


def test_accuracy_leaves_a_video_of_each_prompt_and_says_why_there_are_no_scores(shell: Shell) -> None:
    out, _ = finish(start(shell, "offline", "--set=mlperf.mode=accuracy"))
    document = results(shell)
    check_videos = {f"{prompt}-0.mp4" for prompt in PROMPTS}
    for name in ("cache_off", "cache_on"):
        assert {path.name for path in (shell.folder / "results" / "videos" / name).iterdir()} == check_videos
        assert document[name]["valid"] and document[name]["result"] is None
    assert "mlperf.vbench_python" in document["vbench"]["missing"] and "No VBench scores" in out


@pytest.mark.parametrize("way", ["interrupt", "launcher killed", "rank killed", "one rank interrupted"])
def test_killed_half_way_it_leaves_no_process(shell: Shell, way: str) -> None:
    ranks = 1 if way == "one rank interrupted" else 2
    process = start(shell, "singlestream", f"--ranks={ranks}", "--set=mlperf.min_duration_seconds=600")
    log = shell.folder / "results" / "cache_off" / "mlperf_log_detail.txt"
    await_file(log, process, seconds=120)
    time.sleep(1)  # some queries
    if way == "rank killed":
        os.kill(shell.ranks()[1], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGKILL if way == "launcher killed" else signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    shell.await_nobody(10)
    assert time.monotonic() - started < 20
    assert process.returncode == {"launcher killed": -signal.SIGKILL, "rank killed": 1}.get(way, 130), err
    assert "Traceback" not in err and "terminate called" not in err
    assert not (shell.folder / "results" / "mlperf.json").exists()


def test_a_folder_with_results_is_not_written_again(shell: Shell) -> None:
    folder: Path = shell.folder / "results"
    folder.mkdir()
    (folder / "mlperf.json").write_text("{}")
    _, err = finish(start(shell, "singlestream"), expected=2)
    assert "results of an earlier test" in err
