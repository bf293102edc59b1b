"""Runs that do not end well: Ctrl-C, failing ranks. No process stays, no old file is lost.

Most of them run the stub engine, for what ends them is the same; four run the real one, which imports, computes in C++
and writes frames meanwhile. Ranks that are killed are in test_resume.py.
"""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.support.shell import Shell

pytestmark = pytest.mark.timeout(300)
OLD_REPORT = '{"schema": 1, "steps": [], "output": {}}'
LONG = "--set=sampling.steps=1000"


@pytest.fixture(params=["stub"])
def shell_with_a_video(request: pytest.FixtureRequest, shell: Shell) -> Shell:
    """With the stub engine, unless a test asks for the "real" one."""
    shell.stub = request.param == "stub"
    (shell.folder / "old.mp4").write_text("the old video")
    (shell.folder / "old.json").write_text(OLD_REPORT)
    return shell


def assert_old_files_stand(shell: Shell, killed: bool = False) -> None:
    """And nothing beside them, but what a rank had begun that may have been killed, which the next run removes; and the
    final latents, where it got so far."""
    assert (shell.folder / "old.mp4").read_text() == "the old video"
    assert (shell.folder / "old.json").read_text() == OLD_REPORT
    left = sorted(path.name for path in shell.folder.iterdir() if not (killed and path.name.startswith(".old-")))
    leftovers = [name for name in left if not (killed and name == "old.checkpoint")]
    assert leftovers == ["old.json", "old.mp4"], leftovers


def error_line(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if line.startswith("lockstep: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err and out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("ranks", "moment", "signum", "code", "line", "shell_with_a_video"),
    [
        (1, "denoising", signal.SIGTERM, 143, "lockstep: ended by SIGTERM", "stub"),
        pytest.param(2, "joining ranks", signal.SIGINT, 130, "lockstep: interrupted", "stub", marks=pytest.mark.slow),
    ],
    indirect=["shell_with_a_video"],
)
def test_a_signal_ends_all_ranks(
    ranks: int, moment: str, signum: int, code: int, line: str, shell_with_a_video: Shell
) -> None:
    shell = shell_with_a_video
    process = shell.generate("--prompt=x", LONG, f"--ranks={ranks}", "--output=old.mp4")
    shell.await_line(process, moment)
    process.send_signal(signum)
    sent = time.monotonic()
    assert error_line(process) == line
    assert process.returncode == code
    shell.await_nobody(seconds=1)
    assert time.monotonic() - sent < 5
    assert_old_files_stand(shell)


@pytest.mark.parametrize("stub", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["stub", "real"])
def test_ctrl_c_on_a_terminal(stub: bool, shell: Shell) -> None:
    """The key itself, through a terminal: progress is drawn, and the terminal is usable afterwards."""
    shell.stub = stub
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "launch", "generate", *shell.options("--prompt=x", LONG, "--ranks=2")]
    process = shell.start(["setsid", "--ctty", "--wait", *command], stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    while b"denoising" not in seen:
        seen += os.read(keyboard, 4096)
    os.write(keyboard, b"\x03")
    try:
        while more := os.read(keyboard, 4096):
            seen += more
    except OSError:
        pass  # how Linux says that the last one has closed the terminal
    assert process.wait(timeout=10) == 130
    shell.await_nobody(seconds=1)
    hide, show = b"\x1b[?25l", b"\x1b[?25h"
    assert hide in seen and seen.rindex(show) > seen.rindex(hide), "the cursor is visible again"
    assert seen.rstrip().endswith(b"lockstep: interrupted")


@pytest.mark.parametrize(
    ("ranks", "signum", "code"), [(1, signal.SIGINT, 130), pytest.param(2, signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_while_nobody_reads_the_output(ranks: int, signum: int, code: int, shell_with_a_video: Shell) -> None:
    """`lockstep generate ... 2>&1 | tee log`: Ctrl-C ends tee as well, and our last words have nowhere to go."""
    shell = shell_with_a_video
    process = shell.generate("--prompt=x", LONG, f"--ranks={ranks}", "--output=old.mp4")
    shell.await_line(process, "denoising")
    assert process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    sent = time.monotonic()
    for _ in range(3):  # nor does impatience break off the clean-up
        process.send_signal(signum)
    assert process.wait(timeout=10) == code
    shell.await_nobody(seconds=1)
    assert time.monotonic() - sent < 5
    assert_old_files_stand(shell)


@pytest.mark.parametrize("how", ["lockstep", "torchrun"])
def test_no_rank_outlives_its_launcher(how: str, stub_shell: Shell) -> None:
    shell = stub_shell
    arguments = ["--prompt=x", LONG, "--output=o.mp4"]
    process = shell.torchrun(2, *arguments) if how == "torchrun" else shell.generate(*arguments, "--ranks=2")
    shell.await_line(process, "denoising")
    assert set(shell.ranks()) == {0, 1}
    os.kill(process.pid, signal.SIGKILL)
    shell.await_nobody(seconds=3)


@pytest.mark.parametrize(
    ("fault", "line", "shell_with_a_video"),
    [
        pytest.param(
            "1 3 raise",
            "rank 1 failed in denoise step 4: RuntimeError: injected over two lines",
            "stub",
            marks=pytest.mark.slow,
        ),
        ("0 load raise", "rank 0 failed in load: RuntimeError: injected over two lines", "stub"),
        pytest.param(
            "1 decode raise",
            "rank 1 failed in decode: RuntimeError: injected over two lines",
            "real",
            marks=pytest.mark.slow,
        ),
        ("0 write full-disk", "rank 0 failed in write: OSError: [Errno 28] No space left on device", "stub"),
        (
            "1 3 segfault",
            "rank 1 failed in denoise step 4: the process was ended by SIGSEGV (last words of the process)",
            "stub",
        ),
    ],
    indirect=["shell_with_a_video"],
)
def test_a_failing_rank_ends_all(fault: str, line: str, shell_with_a_video: Shell) -> None:
    """The other rank loses contact at the same moment: the line names the one that failed first."""
    shell = shell_with_a_video
    process = shell.generate("--prompt=x", "--ranks=2", "--output=old.mp4", fault=fault)
    assert error_line(process) == f"lockstep: {line}"
    assert process.returncode == 1
    shell.await_nobody(seconds=1)
    assert_old_files_stand(shell, killed="decode" in fault)


@pytest.mark.parametrize("shell_with_a_video", ["real"], indirect=True)
@pytest.mark.slow
def test_a_disk_that_fills_up_while_frames_are_written_ends_all(shell_with_a_video: Shell) -> None:
    """The other rank is decoding its rows of the next frames, and must not wait for the first one's."""
    shell = shell_with_a_video
    sizes = {"frames": 197, "height": 64, "width": 64, "steps": 2}  # 0.6 MB, of which a third is decoded by then
    sets = [f"--set=sampling.{name}={value}" for name, value in sizes.items()]
    arguments = shell.options("--prompt=x", "--ranks=2", "--output=old.mp4", "--set=cache.method=none", *sets)
    limited = ["prlimit", "--fsize=16384", sys.executable, "-m", "launch", "generate", *arguments]
    line = error_line(shell.start(limited))
    assert line.startswith("lockstep: rank 0 failed in decode: ") and "cannot be written to (File too large)" in line
    shell.await_nobody(seconds=1)
    assert_old_files_stand(shell)


def test_a_failure_of_the_only_rank(shell_with_a_video: Shell) -> None:
    shell = shell_with_a_video
    process = shell.generate("--prompt=x", "--output=old.mp4", fault="0 3 raise")
    assert error_line(process) == "lockstep: rank 0 failed in denoise step 4: RuntimeError: injected over two lines"
    assert process.returncode == 1
    assert_old_files_stand(shell)


HUNG = r"it has not got on for \d+ s, and others wait for it: it is in injected/injected_faults.py:\d+, _hang"
FROZEN = r"its process does not answer, and others have waited for it for \d+ s"


@pytest.mark.parametrize(
    ("how", "fault", "why"),
    [
        ("lockstep", "1 4 hang", HUNG),
        ("lockstep", "0 4 freeze", FROZEN),
        ("torchrun", "0 4 hang", HUNG),
        pytest.param("torchrun", "1 4 freeze", FROZEN, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_hangs_is_named(how: str, fault: str, why: str, stub_shell: Shell) -> None:
    """And not the one that waits for it, whose wait would time out."""
    shell = stub_shell
    arguments = ["--prompt=x", "--output=o.mp4", "--set=runtime.step_timeout_seconds=3"]
    start = (
        shell.torchrun
        if how == "torchrun"
        else lambda ranks, *more, **named: shell.generate("--ranks=2", *more, **named)
    )
    process = start(2, *arguments, fault=fault)
    _, err = process.communicate(timeout=120)
    (line,) = [line for line in err.splitlines() if line.startswith("lockstep: ")]
    assert re.fullmatch(f"lockstep: rank {fault[0]} failed in denoise step 5: {why}", line), line
    assert process.returncode == 1
    shell.await_nobody(seconds=3)


def test_under_torchrun_the_failing_rank_speaks_for_itself(stub_shell: Shell) -> None:
    shell = stub_shell
    process = shell.torchrun(2, "--prompt=x", "--output=o.mp4", fault="1 3 raise")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if line.startswith("lockstep: ")]
    assert lines == ["lockstep: rank 1 failed in denoise step 4: RuntimeError: injected over two lines"]
    shell.await_nobody(seconds=1)
