"""What a check is made of, without its processes."""

import getpass
import json
import os
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.check.agent import run_lines
from launch.check.board import OwnBoard
from launch.check.document import without_names
from launch.check.finding import Finding, State
from launch.check.large_model import Step, large_model
from launch.check.lines import links as of_links
from launch.check.lines.kernels import Measured, shortfalls
from launch.check.lines.layers import judge
from launch.check.lines.synchronisations import count
from launch.check.machine import describe_machine, describe_versions
from launch.check.reference import read_reference
from launch.check.site import Site
from launch.check.starting import Assignment
from launch.check.table import Line, lines_for
from launch.check.video import config_for, loaded, make, relative_error, request_of
from launch.check.worker import _worst
from tests.support.check_site import CHECK_INJECTED, line_called, small_config


def site(tmp_path: Path, ranks: int = 1, local_ranks: int = 1, kind: str = "cpu") -> Site:
    return Site(small_config(), kind, 0, ranks, local_ranks, tmp_path)


def test_the_stored_result_is_what_the_engine_makes(tmp_path: Path) -> None:
    """A change that moves it has to say so: python -m launch.check.reference."""
    config = config_for(site(tmp_path))
    with loaded(config) as engine:
        made = make(engine, request_of(config))
    latents, actions = read_reference()
    assert made.actions == actions and relative_error(made.latents, latents) < 1e-5
    assert {action for _, _, action in actions} == {"warmup", "compute", "skip"}


def test_no_name_of_a_person_or_a_place_is_left() -> None:
    text = f"OSError: /home/ada/models/wan/x.bin on {socket.gethostname()} of {getpass.getuser()}, 3.5 GB/s, a/b"
    hidden = without_names(text, ["secret"])
    assert "/home" not in hidden and "models" not in hidden and "x.bin" in hidden and "3.5 GB/s, a/b" in hidden
    if len(socket.gethostname()) > 2:
        assert socket.gethostname() not in hidden
    assert without_names("a secret word", ["secret"]) == "a … word"


def test_the_machine_is_described_without_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("CUDA_HOME", "/home/ada/cuda")
    monkeypatch.setenv("NCCL_TOPO_FILE", "topology.xml")
    machine = describe_machine()
    assert machine["settings"]["NCCL_DEBUG"] == "INFO" and machine["cores"] >= 1 and machine["memory_gigabytes"] > 0
    assert not {"CUDA_HOME", "NCCL_TOPO_FILE"} & machine["settings"].keys()
    assert "ada" not in json.dumps(machine) and describe_versions().keys() >= {"python", "torch", "diffusers", "xfuser"}


def test_the_driver_is_asked_as_nvidia_smi_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in topo) printf "\\033[4mGPU0\\tGPU1\\033[0m\\nX\\tNV18\\n";;\n'
        '*) echo "NVIDIA H100, 580.1, 81559 MiB, 700.00 W, 1980 MHz, Enabled, Disabled";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine = describe_machine()
    assert machine["gpus"][0]["name"] == "NVIDIA H100" and machine["gpus"][0]["driver_version"] == "580.1"
    assert machine["topology"] == ["GPU0    GPU1", "X       NV18"]


def test_layouts_are_all_that_the_ranks_permit() -> None:
    def names(ranks: int) -> list[str]:
        return [line.name for line in lines_for(ranks, small_config()) if line.name.startswith("layout")]

    assert names(1) == []
    assert names(2) == [
        "layout ulysses 2",
        "layout ring 2",
        "layout cfg 2",
        "layout ring 2 with weights shared out",
        "layout data 2",
    ]
    assert len(names(8)) == 8 and "layout cfg 2 x ulysses 2 x ring 2" in names(8), "4 heads: no ulysses 8"
    assert len({line.name for line in lines_for(8, small_config())}) == len(lines_for(8, small_config()))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({(0, 1): 100.0, (1, 2): 20.0}, "ranks 1 and 2 have 20 GB/s, where others have 1e+02"),
        ({(0, 1): 100.0, (1, 2): 4.0}, "ranks 1 and 2 have 4 GB/s, below 5"),
        ({(0, 1): 100.0, (3, 4): 20.0}, ""),  # to another machine
        ({(0, 1): 100.0, (3, 4): 0.5}, "ranks 3 and 4 have 0.5 GB/s, below 1"),
    ],
)
def test_a_link_is_compared_with_its_kind(pairs: dict[Any, float], words: str, tmp_path: Path) -> None:
    short = of_links._shortfalls(site(tmp_path, 8, 4, "cuda"), {"all_reduce": (50.0, 30.0)}, pairs)
    assert "; ".join(short) == words


def test_a_kernel_falls_short_by_each_of_its_figures() -> None:
    good = Measured("flash", (5, 75600, 128), 0.1, 400.0, 1e-3, 1e-5)
    assert shortfalls([good], "cuda", 800e12) == []
    assert "off by" in shortfalls([Measured("flash", good.shape, 0.1, 400.0, float("inf"), None)], "cuda", 8e14)[0]
    assert "log-sum-exp" in shortfalls([Measured("flash", good.shape, 0.1, 400.0, 1e-3, 0.5)], "cuda", 8e14)[0]
    assert "100 TFLOP/s" in shortfalls([Measured("flash", good.shape, 0.1, 100.0, 1e-3, None)], "cuda", 8e14)[0]
    assert shortfalls([], "cuda", 8e14) == ["no kernel runs"]


def test_steps_fall_short_by_each_of_their_figures() -> None:
    model = large_model(torch.device("cpu"))
    done = [Step(False, 1.0), Step(False, 1.0), Step(True, 0.3)]
    flops = 1e9
    assert judge("cpu", model, done, flops, 0).state is State.HOLDS
    for changed, words in (
        (([Step(False, 1.0)] * 2, flops, 0), "no step was skipped"),
        (([Step(False, 1e4), Step(False, 1e4), Step(True, 1.0)], flops * 1e3, 0), "rate of matrix products"),
        (([*done[:2], Step(True, 0.95)], flops, 0), "a skipped step takes 0.95"),
        ((done, flops, 10**9), "GB are held"),
    ):
        finding = judge("cpu", model, *changed)
        assert finding.state is State.FALLS_SHORT and words in finding.reason, finding


def test_synchronisations_of_one_step_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warns through `warnings`; here the agreement does, once a step, as long as torch would."""
    from parallel.agreement import Agreement

    mode, agree = ["default"], Agreement.agree

    def warned(self: Agreement, **given: Any) -> Any:
        if mode[0] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return agree(self, **given)

    monkeypatch.setattr(Agreement, "agree", warned)
    assert count(site(tmp_path), lambda name: mode.__setitem__(0, name)) == 1
    assert mode == ["default"]


def test_the_rank_that_failed_comes_before_those_that_lost_it() -> None:
    lost = {"state": "falls short", "figure": "", "reason": "rank 0: DistError: Connection closed by peer"}
    cause = {"state": "falls short", "figure": "", "reason": "rank 1: RuntimeError: illegal memory access"}
    holds = {"state": "holds", "figure": "1", "reason": ""}
    assert _worst([lost, cause]) == cause and _worst([lost, holds]) == lost and _worst([holds, None]) == holds


class Heard:
    """An audience that remembers."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}

    def began(self, line: Line) -> None: ...

    def told(self, line: Line, finding: Finding) -> None:
        self.findings[line.name] = finding

    def alive(self) -> None: ...


def test_a_line_that_never_ends_has_fallen_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECK_INJECTED), prepend=os.pathsep)
    monkeypatch.setenv("LOCKSTEP_CHECK_FAULT", "endless")
    lines = [replace(line_called("copies"), cpu_seconds=1.0), line_called("links")]
    heard = Heard()
    assignment = Assignment(1, [0], 1, "cpu", small_config().model_dump_json(), "127.0.0.1", tmp_path)
    run_lines(assignment, lines, OwnBoard(), heard)
    assert heard.findings["copies"].reason.startswith("it did not end within 1 s")
    assert heard.findings["links"].state is State.NOT_HERE


def test_every_line_has_a_limit() -> None:
    lines = lines_for(2, small_config())
    assert all(0 < line.seconds("cpu") <= 180 and 0 < line.seconds("cuda") <= 240 for line in lines)
