"""Quantised weights on small models beside the float result: which layers, how many bytes, which pictures; adapters,
compilation, and what is remembered of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor, nn

from engine.checkpoints.match import calibrated_for, describe_model
from engine.checks.cache_choice import choose_cache, why_not_calibrated
from engine.components.loras.adding import plan_loras
from engine.components.parts import parts_of
from engine.components.quantising import loading
from engine.components.quantising.layers import quantised_names
from engine.components.quantising.torchao_weights import Scheme, quantised, scheme_for
from engine.components.transformer import load_transformer
from engine.config import Config
from engine.cost.advice import _settings
from engine.cost.job import job_of
from engine.cost.quantised import bytes_per_parameter
from engine.cost.shape import read_shape, shape_of_model
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import make_request
from launch.sweep.metrics import psnr
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.engine.test_loras import LAYERS, write_lora
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.hunyuan15_checkpoint import write_hunyuan15_checkpoint
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.published_components import COMPONENTS
from tests.support.small_model import PROMPT, tiny_config

CPU = torch.device("cpu")


def generate(config: Config) -> tuple[Result, Tensor]:
    engine = Engine(load_model(config, Ranks()), Progress())
    result = engine.generate(make_request([PROMPT], "", 3, config.sampling))
    frames = engine.decode(result.latents[0])
    assert frames is not None
    return result, frames


@pytest.fixture(scope="module")
def as_trained() -> tuple[Result, Tensor]:
    return generate(tiny_config())


@pytest.mark.parametrize(("quantize", "decibels"), [("int8", 38), ("fp8", 28)])
def test_the_small_model_makes_the_same_video(
    quantize: str, decibels: float, as_trained: tuple[Result, Tensor]
) -> None:
    """With the cache on; the decisions are those of the float weights."""
    config = tiny_config(f"model.quantize={quantize}")
    (plain, frames), (small, made) = as_trained, generate(config)
    assert plain.report and small.report
    difference = psnr(frames, made)
    assert decibels <= difference < 100, f"{difference} dB: the weights are rounded, and not much"
    kind = {"int8": "int8", "fp8": "float8_e4m3fn"}[quantize]
    assert plain.report["model"]["quantised"] == {}
    assert small.report["model"]["quantised"] == {kind: 12 * 10}, "ten matrices in each of twelve blocks"
    assert small.report["request"]["model"]["quantize"] == quantize
    for key in ("parameters", "dtype"):
        assert small.report["model"][key] == plain.report["model"][key]
    parameters, shape = small.report["model"]["parameters"], read_shape(config.model.path)
    held = small.report["totals"]["weight_bytes_per_rank"]
    assert held == pytest.approx(parameters * bytes_per_parameter(shape, parameters, quantize, 4), abs=1)
    assert held < 0.4 * plain.report["totals"]["weight_bytes_per_rank"]


@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.name)
def test_bytes_of_published_models_are_those_of_their_matrices(model: PublishedModel) -> None:
    kind, settings = COMPONENTS[model.name]["transformer"]
    with accelerate.init_empty_weights():
        transformer = kind(**settings)
    chosen = quantised_names(transformer)
    assert 0.6 < sum(transformer.get_parameter(name).numel() for name in chosen) / model.parameters["transformer"] < 1
    for quantize, beside in (("int8", 5), ("fp8", 4)):
        held = sum(
            parameter.numel() + beside * len(parameter) if name in chosen else 2 * parameter.numel()
            for name, parameter in transformer.named_parameters()
        )
        parameters = model.parameters["transformer"]
        assert held == pytest.approx(parameters * bytes_per_parameter(shape_of_model(model), parameters, quantize, 2))


@pytest.mark.parametrize(
    "write", [write_hunyuan_checkpoint, partial(write_hunyuan15_checkpoint, images=True)], ids=["1.0", "1.5"]
)
def test_embeddings_norms_modulation_and_head_stay(write: Callable[[Path], Path], tmp_path: Path) -> None:
    config = tiny_config(f"model.path={write(tmp_path / 'model')}", "model.quantize=int8")
    facts = read_facts(config.model.path)
    kind = parts_of(facts.family).transformer
    transformer = load_transformer(config, CPU, kind)
    plain = load_transformer(tiny_config(f"model.path={config.model.path}"), CPU, kind)
    names = {name for name, parameter in transformer.named_parameters() if hasattr(parameter, "qdata")}
    assert names and all("blocks." in name and "norm" not in name and "embed" not in name for name in names)
    left = {name for name, parameter in plain.named_parameters() if parameter.ndim > 1} - names
    outside = ("x_embedder", "context_embedder", "time", "proj_out", "norm", "image_embedder", "cond_type_embed")
    assert all(name.startswith(outside) or ".norm" in name for name in left), left
    for name, parameter in plain.named_parameters():
        mine = transformer.get_parameter(name)
        if name not in names:
            assert torch.equal(mine, parameter), name
        else:
            step = parameter.abs().amax(1, keepdim=True) / 127
            assert ((mine.dequantize() - parameter).abs() <= 0.51 * step + 1e-9).all(), name


class TestAdapters:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_tiny_checkpoint(tmp_path_factory.mktemp("wan"))

    @pytest.fixture(scope="class")
    def configs(self, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Config]:
        """With two adapters: as int8, and in float."""
        folder = tmp_path_factory.mktemp("loras")
        loras = []
        for seed in (1, 2):
            transformer = WanPipeline.from_pretrained(model, text_encoder=None).transformer
            loras.append(str(write_lora(WanPipeline, transformer, folder / str(seed), LAYERS["wan"], seed)))
        named = json.dumps([{"path": path, "scale": 0.5} for path in loras])
        both = [
            tiny_config(f"model.path={model}", f"model.loras={named}", f"model.quantize={q}") for q in ("int8", "none")
        ]
        return both[0], both[1]

    def load(self, config: Config) -> Any:
        facts = read_facts(config.model.path)
        return load_transformer(config, CPU, WanTransformer3DModel, loras=plan_loras(config, facts))

    def test_they_are_added_before_weights_are_rounded(self, configs: tuple[Config, Config]) -> None:
        small, plain = (self.load(config) for config in configs)
        chosen = quantised_names(plain)
        for name, parameter in plain.named_parameters():
            mine = small.get_parameter(name)
            if name in chosen:
                expected = quantised(parameter.data, Scheme("int8"))
                assert torch.equal(mine.qdata, expected.qdata) and torch.equal(mine.scale, expected.scale), name
            else:
                assert torch.equal(mine, parameter), name

    def test_never_more_than_a_block_is_in_float(
        self, configs: tuple[Config, Config], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held: list[set[str]] = []

        class Watched(loading._Filling):
            def _quantise(self, name: str, weight: Tensor) -> None:
                names = loading.quantised_names(self._transformer)
                plain = {
                    n for n in names if not hasattr(p := self._transformer.get_parameter(n), "qdata") and not p.is_meta
                }
                held.append({".".join(n.split(".")[:2]) for n in plain})
                super()._quantise(name, weight)

        monkeypatch.setattr(loading, "_Filling", Watched)
        self.load(configs[0])
        assert len(held) == 30 and max(len(blocks) for blocks in held) == 1


def test_blocks_compile_to_one_graph() -> None:
    layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3)).requires_grad_(False)
    tokens = torch.randn(1, 7, 32)
    for scheme in (Scheme("int8"), Scheme("fp8")):
        for layer in layers:
            layer.weight = quantised(layer.weight.data if layer.weight.dtype == torch.float32 else layer.weight, scheme)
        expected = [layer(tokens) for layer in layers]
        torch.compiler.reset()
        compiled = torch.compile(lambda layer, x: layer(x), fullgraph=True, backend="aot_eager")
        for layer, wanted in zip(layers, expected, strict=True):
            assert torch.allclose(compiled(layer, tokens), wanted, atol=1e-6)
        layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3)).requires_grad_(False)


def test_activations_are_rounded_where_the_card_multiplies_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, dynamic in (((8, 0), False), ((8, 9), True), ((9, 0), True), ((10, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert scheme_for("fp8", card, torch.bfloat16) == Scheme("fp8", dynamic)
        assert scheme_for("fp8", card, torch.float32) == Scheme("fp8")
        assert scheme_for("int8", card, torch.bfloat16) == Scheme("int8")
    assert scheme_for("fp8", CPU, torch.bfloat16) == Scheme("fp8") and scheme_for("none", CPU, torch.float32) is None


def test_a_run_goes_on_with_the_same_weights_alone() -> None:
    plain, small = tiny_config().model, tiny_config("model.quantize=int8").model
    assert "quantize" not in describe_model(plain), "checkpoints that are older than the key go on"
    assert describe_model(small)["quantize"] == "int8" and describe_model(small) != describe_model(plain)


def test_a_calibration_of_another_precision_gets_a_note(tmp_path: Path) -> None:
    config = tiny_config()
    made_with = json.loads(json.dumps(calibrated_for(config, config.sampling)))
    file = tmp_path / "cal.json"
    document = {"made_with": made_with, "versions": {}, "prompts": [], "steps": 12, "step_sizes": [1.0] * 12}
    document |= {"branches": ["cond", "uncond"], "mixing": [5.0, -4.0]}
    document |= {"products": [[*[0.0] * row, 1.0] for row in range(24)]}
    file.write_text(json.dumps(document | {"budgets": [{"compute": [0, 3, 7], "damage": 1.0}]}))
    for quantize, notes in (("none", 0), ("fp8", 1)):
        asked = tiny_config(f"cache.calibration={file}", "cache.method=calibrated", f"model.quantize={quantize}")
        request, facts = make_request(["x"], "", 0, asked.sampling), read_facts(asked.model.path)
        assert why_not_calibrated(asked, request, facts) is None
        said = [reason for reason in choose_cache(asked, request, facts).reasons if "model.quantize none" in reason]
        assert len(said) == notes, said
    other = replace(read_facts(config.model.path))
    asked = tiny_config(f"cache.calibration={file}", "sampling.shift=5", "model.quantize=fp8")
    assert "sampling.shift" in str(why_not_calibrated(asked, make_request(["x"], "", 0, asked.sampling), other))


def test_the_memory_of_a_job_knows_of_it() -> None:
    """By computation; HunyuanVideo's modulation stays in bfloat16."""
    for name, whole, small in (("Wan 2.1 T2V 14B", 28.6, 14.5), ("HunyuanVideo", 25.6, 16.6)):
        model = next(model for model in CATALOG if model.name == name)
        for quantize, expected in (("none", whole), ("int8", small), ("fp8", small)):
            config = tiny_config(f"model.quantize={quantize}", "model.dtype=bfloat16", "runtime.offload=none")
            job = job_of(config, model.facts, Degrees(), on_card=True, model=model)
            assert job.memory(80e9).transformer / 1e9 == pytest.approx(expected, abs=0.06), (name, quantize)
            assert ("model.quantize" in "".join(words for words, _ in _settings(job))) == (quantize == "none")
