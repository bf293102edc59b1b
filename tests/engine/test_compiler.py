"""What torch.compile does not go with, and a machine without what it needs: refused in a sentence, before loading."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from engine.checks import compiler
from engine.checks.compiler import check_compiler, check_compiles
from engine.checks.preflight import preflight
from engine.errors import InvalidInput, MachineUnfit
from parallel import torch_private
from parallel.place import Place
from tests.support.small_model import tiny_config

CONFIG = tiny_config("runtime.compile=true")


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with a card, triton and a compiler."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return monkeypatch


def test_this_machine_can_compile() -> None:
    check_compiler(CONFIG)


def test_without_compile_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_private, "cpp_compiler", lambda: None)
    check_compiler(tiny_config())


def test_without_a_cpp_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_private, "cpp_compiler", lambda: None)
    with pytest.raises(MachineUnfit, match=r"^runtime.compile is true, but there is no C\+\+ compiler here: install g"):
        check_compiler(CONFIG)


def test_torch_says_that_there_is_no_cpp_compiler() -> None:
    say = "from parallel.torch_private import cpp_compiler; print(cpp_compiler())"
    environment = os.environ | {"CXX": "no-such-compiler"}
    found = subprocess.run([sys.executable, "-c", say], env=environment, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "None", found.stderr


def test_without_pythons_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(MachineUnfit, match=r"Python's headers are not in .*: install python3-dev"):
        check_compiler(CONFIG)


@pytest.mark.parametrize(
    ("lacks", "complaint"),
    [("triton", "triton, which makes kernels for CUDA, is not installed"), ("compiler", "there is no C compiler here")],
)
def test_on_a_card(with_cuda: pytest.MonkeyPatch, lacks: str, complaint: str) -> None:
    config = tiny_config("runtime.compile=true", "runtime.device=cuda")
    check_compiler(config)
    if lacks == "triton":
        with_cuda.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    else:
        with_cuda.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MachineUnfit, match=complaint):
        check_compiler(config)
    check_compiler(CONFIG)  # which asks for the CPU


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("runtime.deterministic=true", "runtime.deterministic is true"),
        ("runtime.offload=blocks", "runtime.offload is blocks"),
        ("model.quantize=int8", "model.quantize is int8"),
        ("model.quantize=fp8", "model.quantize is fp8"),
    ],
)
def test_what_compiled_blocks_do_not_go_with(override: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=f"^runtime.compile is true, but {complaint}, .*: use one of the two.$"):
        check_compiles(tiny_config("runtime.compile=true", override))
    check_compiles(tiny_config(override))


def test_a_gguf_file_is_not_compiled(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InvalidInput, match=f"^runtime.compile is true, but {file} is a GGUF file, .*: use one of"):
        check_compiles(tiny_config("runtime.compile=true", f'model.single_files={{"transformer": "{file}"}}'))


@pytest.mark.parametrize("override", ["runtime.offload=experts", "parallel.shard_weights=true", "runtime.audit=true"])
def test_what_they_go_with(override: str) -> None:
    check_compiles(tiny_config("runtime.compile=true", override))


def test_it_is_refused_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"runtime.deterministic is true"):
        preflight(tiny_config("runtime.compile=true", "runtime.deterministic=true"), [], Place(ranks=1))
    monkeypatch.setattr(torch_private, "cpp_compiler", lambda: None)
    with pytest.raises(MachineUnfit, match="there is no C"):
        preflight(CONFIG, [], Place(ranks=1))
