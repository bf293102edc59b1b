"""Ranks, nodes and drivers that die, freeze or hang at every moment of a run on Ray: the video is that of a run in
which nothing happened."""

import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.ray_nodes import IMPATIENT, NODE, PLAIN, Fault, Plan, Spoken, assert_nothing_left, on_ray
from tests.support.shell import Shell, actions, finish, hashes, report_of, without_time

pytestmark = pytest.mark.timeout(1200)  # a gang takes 7 s to start on a quiet machine
STEPS = "--set=sampling.steps=12"  # 2 of warm-up, then skipped ones and computed ones
FAULTS: list[Fault] = [
    (0, "load", "kill", 0),
    (1, "warmup", "kill", 0),
    (0, "checkpoint", "kill", 0),
    (1, "skip", "kill", 0),
    (0, "compute", "kill", 0),
    (1, "7", "freeze", 0),
    (0, "9", "hang", 0),
    (1, "decode", "kill", 0),
    (0, "frames", "kill", 0),
]
SOME = [fault for fault in FAULTS if fault[1:3] == ("decode", "kill")]
DETECTION_SECONDS = 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The video of two local ranks in a ring, which nothing disturbed, with its report and latents."""
    shell = Shell(tmp_path_factory.mktemp("whole"), tiny_checkpoint)
    layout = ("--ranks=2", "--set=parallel.ring=2")
    finish(shell.generate("--prompt=x", STEPS, *layout, "--output=whole.mp4", "--latents=whole.safetensors"))
    return shell.folder / "whole.mp4"


@pytest.mark.parametrize("faults", [SOME, pytest.param(FAULTS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_video_is_the_same_whatever_happens_to_a_rank(
    faults: list[Fault], cluster: Any, shell: Shell, whole: Path
) -> None:
    """One run, in which each gang meets a fault of its own at a later moment than the one before."""
    plan = Plan(shell, faults)
    process = on_ray(shell, cluster, STEPS, *IMPATIENT, "--ranks=2", "--output=o.mp4", fault=plan.fault)
    spoken = Spoken(process)
    out = spoken.end()
    lost = [(when, line) for when, line in spoken.lines if "starting all ranks again" in line]
    place = r"node [\d.]+ \([0-9a-f]{8}\)"
    reasons = {
        "kill": rf"the process on {place} died",
        "freeze": rf"the process on {place} has not answered for \d+ s",
        "hang": rf"it answers from {place}, but has not got on for 5 s",
    }
    waits = {"kill": 0.0, "freeze": 12.0, "hang": 5.0}
    for met, (noticed, line), (rank, where, how, _) in zip(plan.met, lost, faults, strict=True):
        assert re.match(rf"rank {rank} failed in [a-z0-9 ]+: {reasons[how]}: starting all", line), (where, line)
        assert noticed - met < waits[how] + DETECTION_SECONDS, (where, how)
    assert "joining ranks" in [without_time(line) for _, line in spoken.lines] and "o.mp4" in out and "computed" in out
    assert hashes(shell.folder / "o.mp4") == hashes(whole)
    report = report_of(shell.folder / "o.mp4")
    assert actions(report) == actions(report_of(whole))
    assert report["layout"]["ring"] == 2, "Ulysses groups stay inside nodes, which have one rank each"
    assert report["resumed_at"] == sorted(report["resumed_at"])
    assert report["resumed_at"][-1] == 12, "a death at decode costs no step"
    assert not (shell.folder / "o.checkpoint").exists()
    assert_nothing_left(cluster, shell)


@pytest.mark.slow
def test_a_gang_moves_to_another_node_when_one_is_lost(cluster: Any, shell: Shell, whole: Path) -> None:
    plan = Plan(shell, [(1, "5", "hang", 0)])
    waits = "--set=runtime.step_timeout_seconds=100"
    process = on_ray(shell, cluster, STEPS, *IMPATIENT, waits, "--ranks=2", "--output=o.mp4", fault=plan.fault)
    spoken = Spoken(process)
    plan.await_met(1, process)
    (gone,) = [node for node in cluster.list_all_nodes() if not node.head]
    cluster.add_node(**NODE)
    lost = time.time()
    cluster.remove_node(gone, allow_graceful=False)
    spoken.end()
    again = [(when, line) for when, line in spoken.lines if "starting all ranks again" in line]
    assert len(again) == 1, "a lost node costs one restart, though Ray itself takes its time to see that it is lost"
    assert again[0][0] - lost < DETECTION_SECONDS
    assert re.match(r"rank 1 failed in denoise step 6: node .* was lost: starting all", again[0][1]), again
    assert hashes(shell.folder / "o.mp4") == hashes(whole)
    assert report_of(shell.folder / "o.mp4")["resumed_at"] == [6]
    assert_nothing_left(cluster, shell)


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_another(cluster: Any, shell: Shell, whole: Path) -> None:
    """By one on the same layout, and by one rank alone, from copies of the same folder."""
    plan = Plan(shell, [(1, "5", "hang", 0)])
    output = ("--output=o.mp4", "--latents=o.safetensors")
    process = on_ray(shell, cluster, STEPS, *IMPATIENT, "--ranks=2", *output, fault=plan.fault)
    plan.await_met(1, process)
    os.kill(process.pid, signal.SIGKILL)
    assert_nothing_left(cluster, shell)
    shutil.copytree(shell.folder / "o.checkpoint", shell.folder / "copy")

    address = f"--ray-address={cluster.address}"
    _, err = finish(shell.lockstep("resume", "o.checkpoint", "--ranks=2", "--launcher=ray", address, **PLAIN))
    assert "going on after 6 of 12 denoise steps" in err
    assert hashes(shell.folder / "o.mp4") == hashes(whole)
    assert not (shell.folder / "o.checkpoint").exists()

    shutil.move(shell.folder / "copy", shell.folder / "o.checkpoint")
    finish(shell.lockstep("resume", "o.checkpoint", "--ranks=1"))
    report = report_of(shell.folder / "o.mp4")
    assert report["world_size"] == 1 and report["resumed_at"] == [6]
    assert actions(report) == actions(report_of(whole))
    files = (shell.folder / "o.safetensors", whole.with_suffix(".safetensors"))
    alone, together = (load_file(file)["latents"] for file in files)
    assert torch.linalg.vector_norm(alone - together) <= 1e-5 * torch.linalg.vector_norm(together)
