"""`make demo` on machines with and without CUDA devices, which are simulated."""

import json
import subprocess
import sys

import pytest
import torch

from engine.checks.model import check_device
from engine.config_file import load_config
from launch.demo import arguments
from tests.support.shell import Shell, finish, hashes
from tests.support.small_model import CONFIG, ROOT


@pytest.mark.parametrize(("devices", "ranks"), [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_every_machine_takes_the_demo(devices: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    command = arguments(devices)
    assert f"--ranks={ranks}" in command
    laid_out = load_config(CONFIG, [f"parallel.ulysses={ranks}", "parallel.ring=1"])
    check_device(laid_out, ranks)  # which refuses ranks that would share a device


def test_the_command_says_what_it_draws_on() -> None:
    """With an option that only prints help, since a simulated device computes nothing."""
    shell = (
        "import sys; sys.argv[0] = 'x'; from launch.demo import main; import os; os.execv = lambda *c: print(c); main()"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/support/injected", "LOCKSTEP_SIMULATED_CUDA": "NVIDIA H100"}
    done = subprocess.run([sys.executable, "-c", shell], env=environment, capture_output=True, text=True, check=True)
    assert "one CUDA device here (NVIDIA H100), so one rank draws on it" in done.stderr
    assert "--ranks=1" in done.stdout


@pytest.mark.slow  # tests/parallel/test_devices.py shows in a process of its own that no device is set
def test_two_ranks_on_the_cpu_beside_one_cuda_device(shell: Shell) -> None:
    """What the refusal of two ranks on one device advises. xDiT would set the device LOCAL_RANK, which is an error."""
    steps = ("--set=sampling.steps=3", "--set=cache.method=none")
    process = shell.generate("--prompt=x", "--ranks=2", "--set=runtime.device=auto", LOCKSTEP_SIMULATED_CUDA="one")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "or use runtime.device=cpu" in err, err
    finish(shell.generate("--prompt=x", *steps, "--ranks=2", "--output=a.mp4", LOCKSTEP_SIMULATED_CUDA="one"))
    finish(shell.generate("--prompt=x", *steps, "--ranks=2", "--output=b.mp4"))
    assert hashes(shell.folder / "a.mp4") == hashes(shell.folder / "b.mp4")
    assert json.loads((shell.folder / "a.json").read_text())["world_size"] == 2
