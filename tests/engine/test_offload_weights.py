"""Weights that wait in the host's memory, with adapters and quantised."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import WanPipeline
from safetensors.torch import load_file

from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.engine.test_loras import LAYERS, write_lora
from tests.support.offloading import other_memory, write_two_experts
from tests.support.original_format import original_wan
from tests.support.parity import difference
from tests.support.quantised_files import write_gguf
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.frames=5", "sampling.height=48", "sampling.width=112", "sampling.steps=6", "sampling.shift=8")
EXPERTS = ("transformer", "transformer_2")


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_experts(tmp_path_factory.mktemp("experts"))


def loras(model: Path, folder: Path) -> tuple[str, ...]:
    """One adapter for each expert."""
    named = []
    for number, expert in enumerate(EXPERTS):
        transformer = getattr(WanPipeline.from_pretrained(model, text_encoder=None), expert)
        path = write_lora(WanPipeline, transformer, folder / str(number), LAYERS["wan"], number)
        named.append({"path": str(path), "scale": 0.1, "transformer": expert})
    return (f"model.loras={json.dumps(named)}",)


def packed(model: Path, folder: Path) -> tuple[str, ...]:
    """A GGUF file of each expert."""
    files = {}
    for expert in EXPERTS:
        weights = load_file(model / expert / "diffusion_pytorch_model.safetensors")
        files[expert] = str(write_gguf(original_wan(weights), folder / f"{expert}.gguf")[0])
    return (f"model.single_files={json.dumps(files)}",)


FORMS: dict[str, Callable[[Path, Path], tuple[str, ...]]] = {
    "LoRA": loras,
    "int8": lambda model, folder: ("model.quantize=int8",),
    "fp8": lambda model, folder: ("model.quantize=fp8",),
    "GGUF": packed,
    "LoRA in int8": lambda model, folder: (*loras(model, folder), "model.quantize=int8"),
}


def generate(config: Config) -> Result:
    engine = Engine(load_model(config, Ranks()), Progress())
    return engine.generate(make_request([PROMPT], "", 3, config.sampling))


@pytest.fixture(scope="module")
def unchanged(two_experts: Path) -> Result:
    return generate(tiny_config(f"model.path={two_experts}", *SMALL, "cache.threshold=0.3"))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_with_any_offload(form: str, two_experts: Path, unchanged: Result, tmp_path: Path) -> None:
    overrides = (f"model.path={two_experts}", *SMALL, "cache.threshold=0.3", *FORMS[form](two_experts, tmp_path))
    stays = generate(tiny_config(*overrides))
    assert difference(stays.latents, unchanged.latents) > 1e-4, "or the form would change nothing"
    for offload in ("experts", "blocks"):
        with other_memory() as mover:
            moved = generate(tiny_config(*overrides, f"runtime.offload={offload}"))
        assert mover.bytes_copied
        # the last bit of a product on the CPU depends on where its weights begin, which mapped files decide otherwise
        assert difference(moved.latents, stays.latents) <= 1e-5, offload
        assert stays.report and moved.report
        assert [row["action"] for row in moved.report["steps"]] == [row["action"] for row in stays.report["steps"]]
        assert moved.report["model"]["quantised"] == stays.report["model"]["quantised"]
