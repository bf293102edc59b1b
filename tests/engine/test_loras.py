"""LoRA adapters: what the diffusers pipeline makes of them, from a file, with nothing left of them but weights."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from engine.checks.preflight import preflight
from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine, Result
from engine.errors import InvalidInput, RankFailure
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import Outputs, make_request, make_tasks
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.adapter_files import Maker
from tests.support.adapter_model import Model
from tests.support.bare_model import edit_json
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.gang import Gang
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.small_model import PROMPT, tiny_config

LAYERS = {
    "wan": ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "time_proj", "proj_out"],
    "hunyuan": ["to_q", "to_out.0", "add_k_proj", "proj_mlp", "norm1.linear", "ff.net.2", "x_embedder.proj"],
}
PIPELINES = {"wan": WanPipeline, "hunyuan": HunyuanVideoPipeline}
WAN, HUNYUAN = PIPELINES


def write_lora(pipeline_kind: Any, transformer: Any, folder: Path, layers: Sequence[str], seed: int) -> Path:
    """An adapter as a trainer would save it: other ranks and alphas for some layers, and nothing that is zero."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=list(layers), rank_pattern={"to_q": 2})
    transformer.add_adapter(config, adapter_name="tuned")
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, 0, 0.3)
    weights = get_peft_model_state_dict(transformer, adapter_name="tuned")
    metadata = transformer.peft_config["tuned"].to_dict()
    pipeline_kind.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=metadata)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    wan = write_tiny_checkpoint(folder / "wan")
    both = Path(shutil.copytree(wan, folder / "two experts"))
    second = WanTransformer3DModel.from_pretrained(wan / "transformer").requires_grad_(False)
    for parameter in second.parameters():
        parameter.mul_(1.1)
    second.save_pretrained(both / "transformer_2")
    edit_json(both / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875)
    return {WAN: wan, "two experts": both, HUNYUAN: write_hunyuan_checkpoint(folder / "hunyuan")}


@pytest.fixture(scope="module")
def loras(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("loras")

    def write(name: str, number: int) -> Path:
        pipeline = PIPELINES[name].from_pretrained(models[name], vae=None)
        return write_lora(PIPELINES[name], pipeline.transformer, folder / f"{name} {number}", LAYERS[name], number)

    return {name: [write(name, number) for number in range(2)] for name in PIPELINES}


def configured(model: Path, loras: Sequence[dict[str, Any]], *overrides: str) -> Config:
    """Of either family; 1 x 2 x 3 or 2 x 2 x 3 tokens."""
    hunyuan = (model / "text_encoder_2").is_dir()
    kind = ("scheduler=euler", "max_sequence_length=256", "shift=7") if hunyuan else ("shift=8",)
    small = ("height=32", "width=48", "frames=5", "steps=4", "guidance=3", *kind)
    sampling = (f"sampling.{setting}" for setting in small)
    return tiny_config(
        f"model.path={model}", f"model.loras={json.dumps(loras)}", "cache.method=none", *sampling, *overrides
    )


def generate(ranks: Ranks, config: Config) -> Result:
    request = make_request([PROMPT], "", 11, config.sampling)
    return Engine(load_model(config, ranks), Progress()).generate(request)


def pipeline_output(config: Config, pipeline: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    sampling, given = config.sampling, pipeline.scheduler.config
    if sampling.scheduler == "unipc":
        pipeline.scheduler = UniPCMultistepScheduler.from_config(given, flow_shift=sampling.shift)
    else:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(given, shift=sampling.shift)
    return pipeline(
        prompt=[PROMPT],
        height=sampling.height,
        width=sampling.width,
        num_frames=sampling.frames,
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        max_sequence_length=sampling.max_sequence_length,
        generator=torch.Generator("cpu").manual_seed(11),
        output_type="latent",
    ).frames


def off(latents: Tensor, expected: Tensor) -> float:
    return float((latents - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", PIPELINES)
def test_two_adapters_give_what_the_pipeline_gives(
    gang: Gang, name: str, models: dict[str, Path], loras: dict[str, list[Path]]
) -> None:
    scales = [0.7, -0.4]
    file = loras[name][1] / "pytorch_lora_weights.safetensors"
    given = [{"path": str(loras[name][0]), "scale": 0.7}, {"path": str(file), "scale": -0.4}]
    config = configured(models[name], given)
    weights = next((models[name] / "transformer").glob("*.safetensors"))
    before = weights.read_bytes()

    pipeline = PIPELINES[name].from_pretrained(models[name])
    plain = pipeline_output(config, pipeline)
    for number, folder in enumerate(loras[name]):
        pipeline.load_lora_weights(folder, adapter_name=str(number))
    pipeline.set_adapters(["0", "1"], scales)
    expected = pipeline_output(config, pipeline)

    result = generate(Ranks(), config)
    assert off(result.latents, expected) <= 1e-5
    assert off(plain, expected) > 1e-2, "the adapters must change something"
    for overrides in ((), ("parallel.shard_weights=true",)):
        for several in gang.run(generate, Degrees(ring=3), configured(models[name], given, *overrides)):
            assert off(several.latents, expected) <= 1e-5
    assert weights.read_bytes() == before, "the file's weights were mapped, and must not be written"
    assert result.report
    assert result.report["model"]["loras"] == [
        entry
        | {"transformer": "transformer", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        | {"tensors_applied": len(load_file(file)), "notes": []}
        for entry, file in zip(given, (loras[name][0] / file.name, file), strict=True)
    ]


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_is_left_but_weights(name: str, models: dict[str, Path], loras: dict[str, list[Path]]) -> None:
    lora = {"path": str(loras[name][0])}
    for dtype in ("float32", "bfloat16"):
        added, plain = (
            load_model(configured(models[name], given, f"model.dtype={dtype}"), Ranks()).adapter.transformer
            for given in ([lora], [])
        )
        assert [(name, type(module)) for name, module in added.named_modules()] == [
            (name, type(module)) for name, module in plain.named_modules()
        ]
        assert {n: p.dtype for n, p in added.named_parameters()} == {n: p.dtype for n, p in plain.named_parameters()}
        changed = {n for n, p in added.named_parameters() if not torch.equal(p, plain.get_parameter(n))}
        assert changed and all(any(f".{layer}." in f".{n}" for layer in LAYERS[name]) for n in changed)


def gather_weights(ranks: Ranks, config: Config) -> dict[str, Tensor]:
    """The transformer's, with only a part of them on each rank."""
    parallel = config.parallel.model_copy(update={"shard_weights": True})
    transformer = load_model(config.model_copy(update={"parallel": parallel}), ranks).adapter.transformer
    return {
        name: parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        for name, parameter in transformer.named_parameters()
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_parts_of_weights_get_their_parts(
    gang: Gang, name: str, models: dict[str, Path], loras: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Of every kind of change; some need the whole weight, of which each rank has a part."""
    family, blocks = {WAN: ("wan", 3), HUNYUAN: ("hunyuan", 2)}[name]
    model = Model(family, blocks, load_file(next((models[name] / "transformer").glob("*.safetensors"))))
    files, tensors = list(loras[name]), set[str]()
    for seed in range(8):
        adapter = Maker(model, seed).make()
        files.append(adapter.write(tmp_path / str(seed)))
        tensors |= adapter.tensors.keys()
    for kind in ("hada_w1_a", "lokr_w", "dora_scale", ".diff", ".set_weight", "lora_B", "lora_up"):
        assert any(kind in tensor for tensor in tensors), kind
    config = configured(models[name], [{"path": str(path), "scale": 0.7} for path in files], "model.dtype=bfloat16")
    whole = dict(load_model(config, Ranks()).adapter.transformer.named_parameters())
    for gathered in gang.run(gather_weights, Degrees(ring=3), config):
        assert gathered.keys() == whole.keys()
        for parameter, expected in whole.items():
            assert gathered[parameter].dtype == expected.dtype and torch.equal(gathered[parameter], expected), parameter


def test_each_expert_gets_its_own(models: dict[str, Path], loras: dict[str, list[Path]], tmp_path: Path) -> None:
    """As the fast LoRAs of Wan 2.2 come: one file for high noise, one for low."""
    first, second = (str(path) for path in loras[WAN])
    given = [{"path": first}, {"path": second, "scale": 0.5, "transformer": "transformer_2"}]
    config = configured(models["two experts"], given, "sampling.steps=6")
    pipeline = WanPipeline.from_pretrained(models["two experts"])
    plain = pipeline_output(config, pipeline)
    pipeline.load_lora_weights(first, adapter_name="high")
    pipeline.load_lora_weights(second, adapter_name="low", load_into_transformer_2=True)
    pipeline.transformer_2.set_adapters(["low"], [0.5])
    expected = pipeline_output(config, pipeline)
    assert off(generate(Ranks(), config).latents, expected) <= 1e-5
    (first_file, second_file) = (
        shutil.copy(Path(path) / "pytorch_lora_weights.safetensors", tmp_path / name)
        for path, name in ((first, "Wan22_LOW_lora.safetensors"), (second, "wan2.2_high_noise.safetensors"))
    )
    swapped = [{"path": str(first_file)}, {"path": str(second_file), "transformer": "transformer_2"}]
    words = "{}: it is named for {} noise, but is added to {}, which is for {} noise"
    notes = [
        words.format("Wan22_LOW_lora.safetensors", "low", "transformer", "high"),
        words.format("wan2.2_high_noise.safetensors", "high", "transformer_2", "low"),
    ]
    for loras_given, said in ((swapped, notes), (given, [])):
        checked = configured(models["two experts"], loras_given)
        assert preflight(checked, make_tasks(["x"], "", [0], checked.sampling, Outputs()), Place(1)).notes == said
    one_only = generate(Ranks(), configured(models["two experts"], given[:1], "sampling.steps=6")).latents
    assert off(one_only, expected) > 1e-3 and off(one_only, plain) > 1e-3


def rename_to_original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names of Wan's own code, as most published adapters are: with alphas and changes of biases."""
    original: dict[str, Tensor] = {}
    renames = {"attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_": "", "ffn.net.0.proj": "ffn.0"}
    renames |= {"ffn.net.2": "ffn.2", "lora_A": "lora_down", "lora_B": "lora_up"}
    for name, tensor in tensors.items():
        if ".blocks." not in name:
            continue
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        name = name.replace("transformer.", "diffusion_model.", 1)
        original[name] = tensor
        if "lora_up" in name:
            layer = name.removesuffix(".lora_up.weight")
            original[f"{layer}.alpha"] = torch.tensor(1.5)
            original[f"{layer}.diff_b"] = torch.linspace(-0.5, 0.5, len(tensor))
    return original


def test_an_adapter_under_the_original_names(
    models: dict[str, Path], loras: dict[str, list[Path]], tmp_path: Path
) -> None:
    file = tmp_path / "wan2.2_t2v_lightning.safetensors"
    save_file(rename_to_original(load_file(loras[WAN][0] / "pytorch_lora_weights.safetensors")), file)
    config = configured(models[WAN], [{"path": str(file), "scale": 0.8}])
    preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(1))
    pipeline = WanPipeline.from_pretrained(models[WAN])
    pipeline.load_lora_weights(file, adapter_name="original")
    pipeline.set_adapters(["original"], [0.8])
    expected = pipeline_output(config, pipeline)
    assert off(generate(Ranks(), config).latents, expected) <= 1e-5
    assert off(generate(Ranks(), configured(models[WAN], [])).latents, expected) > 1e-2


def test_a_hunyuan_adapter_under_the_original_names(models: dict[str, Path], tmp_path: Path) -> None:
    """There, query, key and value are one layer. Width 64, multilayer perceptrons of 128."""
    generator = torch.Generator().manual_seed(5)
    sizes = {
        "img_attn_qkv": (192, 64),
        "txt_attn_qkv": (192, 64),
        "img_mlp.fc2": (64, 128),
        "txt_mod.linear": (384, 64),
    }
    tensors = {}
    for layer, (out, width) in sizes.items():
        name = f"diffusion_model.double_blocks.1.{layer}"
        tensors[f"{name}.lora_A.weight"] = 0.3 * torch.randn(3, width, generator=generator)
        tensors[f"{name}.lora_B.weight"] = 0.3 * torch.randn(out, 3, generator=generator)
    file = tmp_path / "hunyuan.safetensors"
    save_file(tensors, file)
    config = configured(models[HUNYUAN], [{"path": str(file), "scale": 0.6}])
    preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(1))
    pipeline = HunyuanVideoPipeline.from_pretrained(models[HUNYUAN])
    pipeline.load_lora_weights(file, adapter_name="original")
    pipeline.set_adapters(["original"], [0.6])
    expected = pipeline_output(config, pipeline)
    assert off(generate(Ranks(), config).latents, expected) <= 1e-5
    assert off(generate(Ranks(), configured(models[HUNYUAN], [])).latents, expected) > 1e-2


def test_an_adapter_that_is_not_finite(models: dict[str, Path], loras: dict[str, list[Path]], tmp_path: Path) -> None:
    tensors = load_file(loras[WAN][0] / "pytorch_lora_weights.safetensors")
    tensors["transformer.blocks.1.attn1.to_q.lora_B.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "broken.safetensors")
    config = configured(models[WAN], [{"path": str(tmp_path / "broken.safetensors")}])
    with pytest.raises(
        RankFailure, match=r"The LoRA of .*broken\.safetensors cannot be loaded \(.*not finite\): check the file"
    ) as caught:
        load_model(config, Ranks())
    assert "\n" not in str(caught.value)


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
TO_Q = "transformer.blocks.0.attn1.to_q"

UNFIT: dict[str, tuple[Change, list[str]]] = {
    "nothing": (lambda tensors: {}, ["holds no tensor"]),
    "no LoRA": (lambda tensors: {"weight": torch.zeros(2)}, ["holds weight,", "names no layer"]),
    "a block of a deeper model": (
        lambda tensors: tensors | {TO_Q.replace("blocks.0", "blocks.9") + ".lora_A.weight": torch.zeros(2, 48)},
        ["blocks.9", "blocks of this model's transformer are 0 to 2"],
    ),
    "one half": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != f"{TO_Q}.lora_B.weight"},
        [f"{TO_Q}.lora_A.weight without the lora_B"],
    ),
    "another width": (
        lambda tensors: tensors | {f"{TO_Q}.lora_A.weight": torch.zeros(2, 5120)},
        ["48×5120", "48×48", "blocks.0.attn1.to_q", "made for another model"],
    ),
    "ranks that differ": (
        lambda tensors: tensors | {f"{TO_Q}.lora_A.weight": torch.zeros(3, 48)},
        ["3×48", "48×2", "do not fit one another"],
    ),
    "a bias of another length": (
        lambda tensors: tensors | {f"{TO_Q}.lora_B.bias": torch.zeros(7)},
        [f"{TO_Q}.lora_B.bias", "bias of 7", "is 48 here", "made for another model"],
    ),
    "unknown original names": (
        lambda tensors: rename_to_original(tensors) | {"diffusion_model.blocks.0.gate.weight": torch.zeros(2)},
        ["blocks.0.gate.weight", "names no layer"],
    ),
    "one half under the original name": (
        lambda tensors: {"diffusion_model.head.head.lora_down.weight": torch.zeros(2, 48)},
        ["head.head.lora_down.weight without the lora_B"],
    ),
}


def refusal(config: Config) -> str:
    with pytest.raises(InvalidInput) as caught:
        preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(1))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("how", UNFIT)
def test_what_does_not_fit(how: str, models: dict[str, Path], loras: dict[str, list[Path]], tmp_path: Path) -> None:
    change, words = UNFIT[how]
    file = tmp_path / "unfit.safetensors"
    save_file(change(load_file(loras[WAN][0] / "pytorch_lora_weights.safetensors")), file)
    sentence = refusal(configured(models[WAN], [{"path": str(loras[WAN][1])}, {"path": str(file)}]))
    for word in (str(file), *words):
        assert word in sentence, sentence
    assert ("made for another model" in sentence) == ("made for another model" in words), sentence


def test_files(models: dict[str, Path], loras: dict[str, list[Path]], tmp_path: Path) -> None:
    good = {"path": str(loras[WAN][0])}
    (tmp_path / "empty").mkdir()
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(loras[WAN][0] / "pytorch_lora_weights.safetensors", two / name)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((two / "a.safetensors").read_bytes()[:-8])
    (tmp_path / "pickled.pt").write_bytes(b"PK")
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "adapter_model.bin").write_bytes(b"PK")
    for given, words in (
        ({"path": str(tmp_path / "none")}, ["none", "does not exist"]),
        ({"path": str(tmp_path / "empty")}, ["empty", "no file"]),
        ({"path": str(two)}, ["two", "2 files", "name the file"]),
        ({"path": str(cut)}, ["cut.safetensors", "cut short"]),
        ({"path": str(tmp_path / "pickled.pt")}, ["pickled.pt", "a pickle of Python objects"]),
        ({"path": str(tmp_path / "pickles")}, ["pickles", "adapter_model.bin, a pickle"]),
        (good | {"transformer": "transformer_2"}, ["transformer_2", "one transformer"]),
    ):
        sentence = refusal(configured(models[WAN], [good, given]))
        for word in words:
            assert word in sentence, sentence
    (two / "b.safetensors").unlink()
    for config in (configured(models[WAN], [{"path": str(two)}]), configured(models[WAN], [good], "parallel.cfg=1")):
        preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('[{"path": "x", "scale": NaN}]', ["model.loras.0.scale", "NaN"]),
        ('[{"path": "x", "scale": .nan}]', ["model.loras.0.scale", "nan"]),
        ('[{"path": "x", "scale": .inf}]', ["model.loras.0.scale", "inf"]),
        ('[{"path": "x", "scale": strong}]', ["model.loras.0.scale", "strong"]),
        ('[{"scale": 1.0}]', ["model.loras.0.path", "missing"]),
        ('[{"path": "x", "weight": 1.0}]', ["model.loras.0.weight"]),
        ('[{"path": "x", "transformer": "text_encoder"}]', ["model.loras.0.transformer", "text_encoder"]),
        ("x", ["model.loras", "x"]),
        ("[x]", ["model.loras.0", "x"]),
    ],
)
def test_how_it_is_written(given: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        tiny_config(f"model.loras={given}")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_path_is_taken_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {path: m, loras: [{path: speed}, {path: elsewhere, scale: 0.5}]}\n"
        "sampling: {height: 32, width: 32, frames: 5}\n"
    )
    first, second = load_config(file).model.loras
    assert (first.path, first.scale) == (str(tmp_path / "speed"), 1.0)
    assert (second.path, second.scale) == (str(Path.cwd() / "elsewhere"), 0.5)
    (overridden,) = load_config(file, ["model.loras=[{path: speed}]"]).model.loras
    assert overridden.path == str(Path.cwd() / "speed"), "an override is typed where one stands"
