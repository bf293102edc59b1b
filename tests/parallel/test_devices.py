"""Which device a rank takes where there are CUDA devices, which are simulated: in a process of its own, since xDiT asks
torch for them at its import."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os
import warnings

import torch

warnings.simplefilter("ignore")
from parallel import attention, xdit  # which must import, with CUDA and without triton
from parallel.degrees import Degrees
from parallel.ranks import join, pick_device
from tests.parallel.test_ranks import one_rank_of_many


def show(kind: str, local_rank: int) -> None:
    os.environ["LOCAL_RANK"] = str(local_rank)
    with one_rank_of_many(world_size=4, rank=3):
        device = pick_device(kind)
        join(Degrees(ulysses=2, ring=2), device, 60)
        sequence = xdit.get_sp_group()
        assert sequence.ulysses_world_size == sequence.ring_world_size == 2
        print(device, sequence.device, torch.cuda.current_device())


show("auto", 1)  # the last of two ranks on each of two machines
show("cpu", 3)  # the last of four on one machine: xDiT would set the device LOCAL_RANK, and there is none
"""


def test_a_rank_takes_the_card_of_its_place_or_none() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support" / "injected")]),
        "LOCKSTEP_SIMULATED_CUDA": "H100,H100",
    }
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cuda:1 cuda:1 1", "cpu cpu 1"]
