"""Two builds that take turns, as a person runs them.

LOCKSTEP_BENCH_REPEATS=10 repeats each comparison ten times, which takes ten minutes of a quiet machine.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from launch.bench.reading import read_document
from tests.support.builds import changed_steps, copy_build
from tests.support.shell import Shell, await_file, finish
from tests.support.small_model import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
REPEATS = int(os.environ.get("LOCKSTEP_BENCH_REPEATS", "2"))
WITHOUT_CACHE = "--set=cache.method=none"


def start(shell: Shell, build: Path, against: Path, output: str, *arguments: str) -> subprocess.Popen[str]:
    options = shell.options(f"--output={output}", f"--against-build={against}", *arguments)
    return shell.lockstep("bench", *options, PYTHONPATH=str(build))


def compared(shell: Shell, output: str) -> dict:
    process = shell.lockstep("bench", "--compare", output, output, "--report", f"{output}.json")
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1), err
    report = json.loads((shell.folder / f"{output}.json").read_text())
    assert bool(report["slower"]) == bool(process.returncode), out
    return dict(report)


def test_a_slow_build_is_told_and_an_equal_one_is_not(shell: Shell, tmp_path: Path) -> None:
    slow = changed_steps(tmp_path / "slow", "time.sleep(0.05 * seconds)")
    equal = copy_build(tmp_path / "equal")
    told, faster, cries = 0, 0, 0
    for number in range(REPEATS):
        for name, build, against in (("slow", slow, ROOT), ("faster", ROOT, slow), ("equal", equal, ROOT)):
            finish(start(shell, build, against, f"{name}{number}", WITHOUT_CACHE))
        told += bool(compared(shell, f"slow{number}")["slower"])
        cries += bool(compared(shell, f"equal{number}")["slower"])
        rows = compared(shell, f"faster{number}")["rows"]
        row = next(row for row in rows if row["name"] == "a step with its waits, over without")
        faster += row["verdict"] == "faster"
    assert (told, faster, cries) == (REPEATS, REPEATS, 0)


def test_two_ranks_with_a_cache_make_the_same_videos(shell: Shell, tmp_path: Path) -> None:
    build = copy_build(tmp_path / "build")
    (shell.folder / "prompts.txt").write_text("a red circle\na blue square\n")
    given = ("--ranks=2", "--rounds=3", "--prompts=prompts.txt", "--set=cache.threshold=1")
    out, err = finish(start(shell, ROOT, build, "o", *given))
    results = read_document(shell.folder / "o")
    other = results.against
    assert other and results.cache_off and other.videos == results.videos == 6
    assert [(s.round, s.prompt, s.seed, s.latents_sha256) for s in other.samples] == [
        (s.round, s.prompt, s.seed, s.latents_sha256) for s in results.samples
    ]
    assert other.collective_bytes_by_kind == results.collective_bytes_by_kind and len(other.ranks) == 2
    builds = results.made_with["builds"]
    assert builds["against"]["folder"] == str(build) and builds["given"]["folder"] == str(ROOT)
    assert builds["against"]["version"] == builds["against"]["versions"]["lockstep-video"]
    assert "round 3 of 3, against" in err and "against" in out
    report = compared(shell, "o")
    assert report["paired"] and report["a"].startswith(f"the build in {build}, ") and report["notes"] == []
    assert sorted(path.suffix for path in (shell.folder / "o").iterdir()) == sorted(
        [".json", ".md", ".png", ".png", ".svg", ".svg"]
    ), "no scratch"
    shell.await_nobody(seconds=1)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("measures", [True, False])
def test_who_waits_takes_no_processor(measures: bool, ranks: int, shell: Shell, tmp_path: Path) -> None:
    """A build sleeps in its turn, so that all processes of both should be idle."""
    marker = tmp_path / "asleep"
    sleeper = changed_steps(
        tmp_path / "sleeper",
        f"if step == 12 and os.environ.get('RANK', '0') == '0':\n    open({str(marker)!r}, 'w').close()\n"
        f"    time.sleep(8)\n    os.rename({str(marker)!r}, {str(marker)!r} + '.over')",
    )
    builds = (sleeper, ROOT) if measures else (ROOT, sleeper)
    process = start(shell, *builds, "o", WITHOUT_CACHE, "--rounds=2", f"--ranks={ranks}")
    await_file(marker, process, seconds=200)
    time.sleep(1)
    before, began = busy_seconds(shell), time.monotonic()
    time.sleep(5)
    after, taken = busy_seconds(shell), time.monotonic() - began
    assert marker.exists(), "it still sleeps"
    spent = {pid: after[pid] - before[pid] for pid in before.keys() & after.keys()}
    assert len(spent) == (2 if ranks == 1 else 6)
    assert max(spent.values()) < 0.03 * taken, spent
    finish(process)


def busy_seconds(shell: Shell) -> dict[int, float]:
    times = {pid: psutil.Process(pid).cpu_times() for pid in shell.family()}
    return {pid: each.user + each.system for pid, each in times.items()}


ENDS = {
    "ctrl-c": (signal.SIGINT, 130),
    "terminated": (signal.SIGTERM, 143),
    "killed": (signal.SIGKILL, -signal.SIGKILL),
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("way", ENDS)
def test_an_ended_command_leaves_no_process_of_either(way: str, ranks: int, shell: Shell, tmp_path: Path) -> None:
    signum, code = ENDS[way]
    process = start(shell, ROOT, copy_build(tmp_path / "build"), "o", f"--ranks={ranks}", "--rounds=100")
    shell.await_line(process, "video 4 (of 300): round 2 of 100")
    assert len(shell.family()) == (2 if ranks == 1 else 6)
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == code
    shell.await_nobody(seconds=8)
    assert not (shell.folder / "o" / "bench.json").exists()


FAULTS = {
    "raises": ("raise ValueError('injected')", "ended with exit code 1: rank {rank} failed in denoise step"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", "ended "),
}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_other_build_ends_both(fault: str, ranks: int, shell: Shell, tmp_path: Path) -> None:
    statement, words = FAULTS[fault]
    rank = ranks - 1
    broken = changed_steps(
        tmp_path / "broken", f"if step == 20 and os.environ.get('RANK', '0') == '{rank}':\n    {statement}"
    )
    process = start(shell, ROOT, broken, "o", WITHOUT_CACHE, f"--ranks={ranks}")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    line = err.splitlines()[-1]
    assert line.startswith("lockstep: rank 0 failed in ") and f"The build in {broken} has " in line
    assert words.format(rank=rank) in line and "Traceback" not in err
    shell.await_nobody(seconds=8)
    assert not (shell.folder / "o" / "bench.json").exists()


def test_a_fault_in_the_measuring_build_ends_both(shell: Shell, tmp_path: Path) -> None:
    broken = changed_steps(tmp_path / "broken", "if step == 20:\n    os.kill(os.getpid(), signal.SIGSEGV)")
    process = start(shell, broken, ROOT, "o", WITHOUT_CACHE, "--ranks=2")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1 and "SIGSEGV" in err.splitlines()[-1]
    shell.await_nobody(seconds=8)


def test_a_build_that_does_not_know_the_work_is_refused_before_anything_loads(shell: Shell, tmp_path: Path) -> None:
    older = copy_build(tmp_path / "older")
    config = older / "launch" / "jobs" / "config.py"
    config.write_text(config.read_text().replace("mlperf:", "mlperf_of_old:"))
    _, err = finish(start(shell, ROOT, older, "o", "--set=mlperf.queries=3"), expected=2)
    line = err.splitlines()[-1]
    assert line.startswith(f"lockstep: The build in {older} refuses to take turns: ") and "mlperf" in line
    assert "load" not in [word for each in err.splitlines() for word in each.split()[2:3]]
    shell.await_nobody(seconds=2)


def test_torchrun_is_refused(shell: Shell) -> None:
    given = shell.options("--output=t", f"--against-build={ROOT}")
    _, err = shell.torchrun_of(2, "launch", "bench", *given).communicate(timeout=100)
    assert [
        line for line in err.splitlines() if line.startswith("lockstep: --against-build is ") and "torchrun" in line
    ]
