"""Published files of fewer bits: fp8 with and without scales, as files and as folders, and GGUF. They are what they
say, and what does not go with them is refused in a sentence."""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from diffusers import AutoencoderKLWan, HunyuanVideoTransformer3DModel, WanTransformer3DModel
from safetensors.torch import load_file
from transformers import UMT5EncoderModel

from engine.checks.preflight import Checked, preflight
from engine.components.files import load_module
from engine.components.quantising import torchao_weights
from engine.components.quantising.layers import block_matrices
from engine.components.tensors import check_tensors
from engine.components.transformer import load_transformer
from engine.config import Config
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import Outputs, make_request, make_tasks
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.original_format import original_hunyuan, original_wan
from tests.support.quantised_files import FP8, Tensors, plain_fp8, save, scaled_fp8, write_gguf
from tests.support.small_model import PROMPT, tiny_config
from tests.support.tiny_hunyuan import make_transformer

CPU = torch.device("cpu")
KINDS = {"wan": WanTransformer3DModel, "hunyuan": HunyuanVideoTransformer3DModel}
ORIGINAL = {"wan": original_wan, "hunyuan": original_hunyuan}
Kind = gguf.GGMLQuantizationType
LAYOUTS: dict[str, Callable[[Tensors], tuple[Tensors, Tensors]]] = {
    "scale_weight": scaled_fp8,
    "weight_scale": lambda tensors: scaled_fp8(tensors, newer=True),
    "no scales": plain_fp8,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Widths that blocks of 32 numbers divide. HunyuanVideo is without single-stream blocks, which diffusers'
    conversion cuts at the published width."""
    folder = tmp_path_factory.mktemp("models")
    wan = write_tiny_checkpoint(folder / "wan", num_heads=8)
    hunyuan = write_hunyuan_checkpoint(folder / "hunyuan")
    torch.manual_seed(2)
    sizes = dict(make_transformer("text").config) | {"num_single_layers": 0}
    HunyuanVideoTransformer3DModel.from_config(sizes).save_pretrained(hunyuan / "transformer")
    return {"wan": wan, "hunyuan": hunyuan}


def weights_of(model: Path) -> Tensors:
    return load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")


def configured(model: Path, *overrides: str, **single_files: Path) -> Config:
    hunyuan = (model / "text_encoder_2").is_dir()
    kind = ("scheduler=euler", "max_sequence_length=256") if hunyuan else ("shift=8",)
    named = json.dumps({component: str(file) for component, file in single_files.items()})
    sampling = (f"sampling.{setting}" for setting in ("height=32", "width=48", "frames=5", "steps=4", *kind))
    return tiny_config(f"model.path={model}", f"model.single_files={named}", "cache.method=none", *sampling, *overrides)


def check(config: Config, ranks: int = 1) -> Checked[Config]:
    return preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(ranks))


def refusal(config: Config, ranks: int = 1) -> str:
    with pytest.raises(InvalidInput) as caught:
        check(config, ranks)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith("."), sentence
    return sentence


def meant_weights(model: Path, kind: Any, meant: Tensors, folder: Path) -> Tensors:
    """Under diffusers' names, by diffusers' own loader."""
    file = save(meant, folder / "meant.safetensors")
    where = {"config": str(model), "subfolder": "transformer", "local_files_only": True}
    loaded: Tensors = kind.from_single_file(str(file), **where, torch_dtype=torch.float32).state_dict()
    return loaded


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", KINDS)
def test_fp8_files(family: str, layout: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Every weight is the one that is meant: dequantised, and kept in float8 with its scale."""
    kind, model = KINDS[family], models[family]
    held, meant = LAYOUTS[layout](ORIGINAL[family](weights_of(model)))
    file = save(held, tmp_path / "fp8.safetensors", "model.diffusion_model.")
    wanted = meant_weights(model, kind, meant, tmp_path)
    loaded = {}
    for quantize in ("none", "fp8"):
        config = configured(model, f"model.quantize={quantize}", transformer=file)
        notes = check(config).notes
        assert any("scales of inputs" in note for note in notes) == (layout == "scale_weight"), notes
        assert any("is dequantised; model.quantize=fp8" in note for note in notes) == (quantize == "none"), notes
        loaded[quantize] = load_transformer(config, CPU, kind)
    for name, tensor in wanted.items():
        assert torch.allclose(loaded["none"].state_dict()[name], tensor, rtol=1e-6, atol=0), name
    kept = {name: p for name, p in loaded["fp8"].named_parameters() if hasattr(p, "qdata")}
    assert len(kept) >= 20 and kept.keys() <= block_matrices(loaded["none"])
    for name, parameter in loaded["fp8"].named_parameters():
        plain = parameter.dequantize() if name in kept else parameter
        assert torch.allclose(plain, wanted[name], rtol=1e-6, atol=0), name
        assert name not in kept or (parameter.qdata.dtype == FP8 and parameter.act_quant_kwargs is None)


@pytest.mark.parametrize("family", KINDS)
def test_gguf_files(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    kind, model = KINDS[family], models[family]
    file, meant = write_gguf(ORIGINAL[family](weights_of(model)), tmp_path / "model-Q8_0.gguf")
    config = configured(model, transformer=file)
    check(config)
    transformer = load_transformer(config, CPU, kind)
    wanted = meant_weights(model, kind, meant, tmp_path)
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    packed = 0
    for name, parameter in transformer.named_parameters():
        packed += hasattr(parameter, "quant_type")
        # diffusers multiplies a block's numbers with its scale in float16
        assert torch.allclose(dequantize_gguf_tensor(parameter).float(), wanted[name], rtol=2e-3, atol=1e-5), name
        assert hasattr(parameter, "quant_type") == (name in block_matrices(kind.from_config(transformer.config))), name
    assert packed >= 20 and transformer.dtype == torch.float32


@pytest.mark.parametrize("how", ["gguf", "fp8"])
@pytest.mark.parametrize("family", KINDS)
def test_a_video_is_that_of_the_weights_that_are_meant(
    family: str, how: str, models: dict[str, Path], tmp_path: Path
) -> None:
    model, original = models[family], ORIGINAL[family](weights_of(models[family]))
    if how == "gguf":
        file, meant = write_gguf(original, tmp_path / "model.gguf")
    else:
        held, meant = scaled_fp8(original)
        file = save(held, tmp_path / "scaled.safetensors")
    overrides = ("model.quantize=fp8",) if how == "fp8" else ()
    plain = save(meant, tmp_path / "plain.safetensors")
    configs = [configured(model, *overrides, transformer=file), configured(model, transformer=plain)]
    made = []
    for config in configs:
        request = make_request([PROMPT], "", 3, config.sampling)
        result = Engine(load_model(config, Ranks()), Progress()).generate(request)
        assert result.report
        made.append((result.latents, result.report))
    (small, report), (whole, plain_report) = made
    assert (small - whole).abs().max() <= (1e-5 if how == "fp8" else 5e-3) * whole.abs().max()
    assert report["model"]["parameters"] == plain_report["model"]["parameters"]
    assert list(report["model"]["quantised"]) == ["Q8_0" if how == "gguf" else "float8_e4m3fn"]
    assert report["totals"]["weight_bytes_per_rank"] < 0.7 * plain_report["totals"]["weight_bytes_per_rank"]


def test_folders_in_fp8(models: dict[str, Path], tmp_path: Path) -> None:
    """The transformer, the text encoder and the VAE, with scales and without."""
    model = Path(shutil.copytree(models["wan"], tmp_path / "model"))
    kinds = {"transformer": WanTransformer3DModel, "text_encoder": UMT5EncoderModel, "vae": AutoencoderKLWan}
    for layout in LAYOUTS.values():
        meant = {}
        for component in kinds:
            name = "model" if component == "text_encoder" else "diffusion_pytorch_model"
            stored = load_file(models["wan"] / component / f"{name}.safetensors")
            renamed = {f"blocks.0.{key}": tensor for key, tensor in stored.items()}  # so that all matrices are scaled
            held, wanted = layout(renamed)
            held = {key.removeprefix("blocks.0."): tensor for key, tensor in held.items()}
            meant[component] = {key.removeprefix("blocks.0."): tensor for key, tensor in wanted.items()}
            save(held, model / component / f"{name}.safetensors")
        config = configured(model)
        notes = check(config).notes
        assert any("text_encoder is in fp8" in note for note in notes), notes
        check_tensors(config, read_facts(model))
        for component, kind in kinds.items():
            loaded = load_module(kind, str(model), component, torch.float32).state_dict()
            for key, tensor in meant[component].items():
                assert torch.allclose(loaded[key], tensor, rtol=1e-6, atol=0), key
        transformer = load_transformer(configured(model, "model.quantize=fp8"), CPU, WanTransformer3DModel)
        for key, parameter in transformer.named_parameters():
            plain = parameter.dequantize() if hasattr(parameter, "qdata") else parameter
            assert torch.allclose(plain, meant["transformer"][key], rtol=1e-6, atol=0), key


def test_an_adapter_on_weights_in_fp8(models: dict[str, Path], tmp_path: Path) -> None:
    held, meant = scaled_fp8(original_wan(weights_of(models["wan"])))
    file = save(held, tmp_path / "fp8.safetensors")
    change = torch.randn(96, 96) * 0.1
    adapter = save({"blocks.1.attn1.to_q.diff": change}, tmp_path / "lora.safetensors")
    loras = f"model.loras={json.dumps([{'path': str(adapter)}])}"
    config = configured(models["wan"], "model.quantize=fp8", loras, transformer=file)
    check(config)
    (expert,) = load_model(config, Ranks()).experts
    weight = expert.adapter.transformer.blocks[1].attn1.to_q.weight
    wanted = meant["blocks.1.self_attn.q.weight"] + change
    assert weight.qdata.dtype == FP8
    assert (weight.dequantize() - wanted).abs().max() <= wanted.abs().max() / 16
    untouched = expert.adapter.transformer.blocks[0].attn1.to_q.weight.dequantize()
    assert torch.allclose(untouched, meant["blocks.0.self_attn.q.weight"], rtol=1e-6, atol=0)


def test_what_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    wan, original = models["wan"], original_wan(weights_of(models["wan"]))
    held, _ = scaled_fp8(original)
    newer, _ = scaled_fp8(original, newer=True)
    q, mark = "blocks.0.self_attn.q", json.dumps({"format": "nvfp4"}).encode()

    def fp8(name: str, **changed: Any) -> Path:
        tensors = held | {key.replace("__", "."): tensor for key, tensor in changed.items()}
        return save({key: t for key, t in tensors.items() if t is not None}, tmp_path / f"{name}.safetensors")

    good = fp8("good")
    packed, _ = write_gguf(original, tmp_path / "good.gguf")
    odd = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(odd, "wan")
    for name, tensor in original.items():
        kind = Kind.IQ1_S if name == f"{q}.weight" else None
        data = torch.zeros(96, 50, dtype=torch.uint8).numpy() if kind else tensor.float().numpy()
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    cut, fake = tmp_path / "cut.gguf", tmp_path / "fake.gguf"
    shutil.copy(packed, cut)
    os.truncate(cut, cut.stat().st_size // 2)
    fake.write_bytes(b"nothing of that kind")
    other, _ = write_gguf({**original, "vace.weight": torch.zeros(32, 32)}, tmp_path / "other.gguf")
    lora = save({"blocks.1.attn1.to_q.diff": torch.zeros(96, 96)}, tmp_path / "lora.safetensors")
    loras = f"model.loras={json.dumps([{'path': str(lora)}])}"
    blocks = fp8("blocks", **{f"{q}.scale_weight".replace(".", "__"): torch.ones(3, 3)})
    stray = fp8("stray", **{"head__head__scale_weight": torch.ones(())})
    int8, sharded = "model.quantize=int8", "parallel.shard_weights=true"
    marked = save(
        newer | {f"{q}.comfy_quant": torch.tensor(list(mark), dtype=torch.uint8)}, tmp_path / "nv.safetensors"
    )
    folder = Path(shutil.copytree(wan, tmp_path / "folder"))
    save(scaled_fp8(weights_of(wan))[0], folder / "transformer" / "diffusion_pytorch_model.safetensors")
    for model, files, overrides, ranks, words in (
        (wan, {}, (int8, sharded), 2, ["model.quantize is int8", "shard_weights=false"]),
        (wan, {"transformer": packed}, (int8,), 1, ["good.gguf", "quantised already", "model.quantize=none"]),
        (wan, {"transformer": packed}, (loras,), 1, ["lora.safetensors", "good.gguf", "no adapter"]),
        (wan, {"transformer": packed}, (sharded,), 2, ["shard_weights is true", "converted whole"]),
        (wan, {"transformer": good}, (int8,), 1, ["good.safetensors is in fp8", "model.quantize=fp8"]),
        (folder, {}, (int8,), 1, ["transformer is in fp8", "rounded twice"]),
        (folder, {}, (sharded,), 2, ["in fp8 with scales", "shard_weights=false"]),
        (wan, {"vae": packed}, (), 1, ["good.gguf", "only transformers"]),
        (wan, {"transformer": cut}, (), 1, ["cut.gguf", "no whole GGUF file"]),
        (wan, {"transformer": fake}, (), 1, ["fake.gguf", "no GGUF file"]),
        (wan, {"transformer": tmp_path / "none.gguf"}, (), 1, ["none.gguf", "cannot be read"]),
        (wan, {"transformer": odd}, (), 1, ["odd.gguf", f"{q}.weight", "IQ1_S", "Q4_K"]),
        (wan, {"transformer": other}, (), 1, ["other.gguf", "vace.weight is unknown"]),
        (wan, {"transformer": blocks}, (), 1, [f"{q}.scale_weight", "[3, 3]", "neither one scale nor one a row"]),
        (wan, {"transformer": stray}, (), 1, ["head.head.scale_weight", "not there in float8"]),
        (wan, {"transformer": marked}, (), 1, [f"{q}.comfy_quant", "nvfp4"]),
    ):
        sentence = refusal(configured(model, *overrides, **files), ranks)
        for word in words:
            assert word in sentence, sentence


def test_missing_and_unfit_packages(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = write_gguf(original_wan(weights_of(models["wan"])), tmp_path / "good.gguf")
    find = importlib.util.find_spec
    asked = configured(models["wan"], "model.quantize=fp8")
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name in ("torchao", "gguf") else find(name, *a)
        )
        for config, package in ((asked, "torchao"), (configured(models["wan"], transformer=packed), "gguf")):
            sentence = refusal(config)
            assert package in sentence and "install lockstep-video[quantize]" in sentence

    def broken(*_: Any) -> None:
        raise ImportError("cannot import name 'thing' from 'torch'")

    monkeypatch.setattr(torchao_weights, "quantised", broken)
    sentence = refusal(asked)
    for word in ("torchao", "does not go with torch", "cannot import name 'thing'", "constraints.txt"):
        assert word in sentence, sentence
