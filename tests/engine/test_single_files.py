"""Weights in the original format: the same model as from the folder that they were converted to."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import AutoencoderKLWan, HunyuanVideoTransformer3DModel, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from engine.checks.preflight import preflight
from engine.components.single_files import _converted, load_weights
from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine
from engine.errors import InvalidInput, RankFailure
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import Outputs, make_request, make_tasks
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.bare_model import edit_json
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.original_format import Tensors, original_hunyuan, original_wan, original_wan_vae
from tests.support.small_model import PROMPT, tiny_config
from tests.support.tiny_hunyuan import make_transformer

WAN_KIND, HUNYUAN_KIND = WanTransformer3DModel, HunyuanVideoTransformer3DModel


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Diffusers folders of models whose sizes diffusers' conversion knows: the VAE with two residual blocks a level,
    HunyuanVideo without single-stream blocks, which it cuts at the published width."""
    folder = tmp_path_factory.mktemp("models")
    wan = write_tiny_checkpoint(folder / "wan")
    torch.manual_seed(1)
    levels: dict[str, Any] = {"dim_mult": [1, 2, 4, 4], "temperal_downsample": [False, True, True]}
    AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=2, **levels).save_pretrained(wan / "vae")
    both = Path(shutil.copytree(wan, folder / "two experts"))
    shutil.copytree(both / "transformer", both / "transformer_2")
    edit_json(both / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875)
    hunyuan = write_hunyuan_checkpoint(folder / "hunyuan")
    sizes = dict(make_transformer("text").config) | {"num_single_layers": 0}
    HUNYUAN_KIND.from_config(sizes).save_pretrained(hunyuan / "transformer")
    return {"wan": wan, "two experts": both, "hunyuan": hunyuan}


@pytest.fixture(scope="module")
def files(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights under their original names, as they are published: one file, several, pickled."""
    folder = tmp_path_factory.mktemp("files")

    def tensors(kind: Any, model: str, component: str) -> Tensors:
        weights: Tensors = kind.from_pretrained(models[model] / component).state_dict()
        return weights

    wan = original_wan(tensors(WAN_KIND, "wan", "transformer"))
    vae = original_wan_vae(tensors(AutoencoderKLWan, "wan", "vae"))
    hunyuan = original_hunyuan(tensors(HUNYUAN_KIND, "hunyuan", "transformer"))
    paths = {name: folder / name for name in ("wan.safetensors", "comfy.safetensors", "vae.pth", "hunyuan.pt")}
    save_file(wan, paths["wan.safetensors"])
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in wan.items()}, paths["comfy.safetensors"])
    torch.save(vae, paths["vae.pth"])
    torch.save({"module": hunyuan}, paths["hunyuan.pt"])
    names = sorted(wan)
    halves = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: wan[name] for name in held}, folder / file)
    shards = folder / "wan.safetensors.index.json"
    shards.write_text(json.dumps({"weight_map": {name: file for file, held in halves.items() for name in held}}))
    return paths | {"several": shards}


def configured(model: Path, single_files: dict[str, Path], *overrides: str) -> Config:
    hunyuan = (model / "text_encoder_2").is_dir()
    kind = ("scheduler=euler", "max_sequence_length=256") if hunyuan else ("shift=8",)
    small = ("height=32", "width=48", "frames=5", "steps=2", *kind)
    named = json.dumps({component: str(file) for component, file in single_files.items()})
    sampling = (f"sampling.{setting}" for setting in small)
    return tiny_config(f"model.path={model}", f"model.single_files={named}", "cache.method=none", *sampling, *overrides)


def check(config: Config, ranks: int = 1) -> None:
    preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(ranks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("model", "component", "file", "kind"),
    [
        ("wan", "transformer", "wan.safetensors", WAN_KIND),
        ("wan", "transformer", "comfy.safetensors", WAN_KIND),
        ("wan", "transformer", "several", WAN_KIND),
        ("two experts", "transformer_2", "wan.safetensors", WAN_KIND),
        ("wan", "vae", "vae.pth", AutoencoderKLWan),
        ("hunyuan", "transformer", "hunyuan.pt", HUNYUAN_KIND),
    ],
)
def test_the_same_weights_in_the_same_dtypes(
    model: str,
    component: str,
    file: str,
    kind: Any,
    dtype: torch.dtype,
    models: dict[str, Path],
    files: dict[str, Path],
) -> None:
    config = configured(models[model], {component: files[file]})
    check(config)
    loaded = load_weights(kind, config, component, dtype)
    expected = kind.from_pretrained(models[model], subfolder=component, dtype=dtype)
    for (name, tensor), (other, wanted) in zip(loaded.named_parameters(), expected.named_parameters(), strict=True):
        assert name == other and tensor.dtype == wanted.dtype and torch.equal(tensor, wanted), name
    assert [b.dtype for b in loaded.buffers()] == [b.dtype for b in expected.buffers()]
    assert not loaded.training


def test_names_that_are_diffusers_own_already(models: dict[str, Path]) -> None:
    file = models["wan"] / "transformer" / "diffusion_pytorch_model.safetensors"
    config = configured(models["two experts"], {"transformer": file})
    check(config)
    loaded = load_weights(WAN_KIND, config, "transformer", torch.float32)
    assert torch.equal(loaded.proj_out.weight, load_file(file)["proj_out.weight"])


@pytest.mark.parametrize(
    ("model", "given"),
    [("wan", {"transformer": "wan.safetensors", "vae": "vae.pth"}), ("hunyuan", {"transformer": "hunyuan.pt"})],
)
def test_a_run_needs_no_weights_in_the_folder(
    model: str, given: dict[str, str], models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    """Of what comes from elsewhere, the folder holds the configuration alone."""
    folder = Path(shutil.copytree(models[model], tmp_path / "model"))
    for component in given:
        (folder / component / "diffusion_pytorch_model.safetensors").unlink()
    request = make_request([PROMPT], "", 3, configured(folder, {}).sampling)
    runs = []
    for config in (configured(models[model], {}), configured(folder, {c: files[f] for c, f in given.items()})):
        check(config)
        engine = Engine(load_model(config, Ranks()), Progress())
        runs.append(engine.generate(request, output=tmp_path / f"{len(runs)}.mp4"))
    whole, single = runs
    # not the same bits in float32: weights that are mapped lie at other addresses, where MKL rounds differently
    assert (single.latents - whole.latents).abs().max() <= 1e-5 * whole.latents.abs().max()
    assert single.report
    assert single.report["request"]["model"]["single_files"] == {c: str(files[f]) for c, f in given.items()}


def test_single_stream_blocks_at_their_published_width() -> None:
    """The conversion cuts them at 3072, so names and shapes are compared without weights."""
    sizes = {"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 1, "num_single_layers": 2}
    with accelerate.init_empty_weights():
        empty = HUNYUAN_KIND(**sizes)
    original = original_hunyuan(empty.state_dict())
    assert original["single_blocks.1.linear1.weight"].shape == (3 * 3072 + 4 * 3072, 3072)
    converted = _converted(HUNYUAN_KIND, original, empty)
    assert {n: t.shape for n, t in converted.tensors.items()} == {n: t.shape for n, t in empty.state_dict().items()}


Change = Callable[[Tensors], Tensors]
UNFIT: dict[str, tuple[Change, list[str]]] = {
    "a tensor is missing": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "head.head.weight"},
        ["proj_out.weight is missing"],
    ),
    "one is of another shape": (
        lambda tensors: tensors | {"head.head.weight": torch.zeros(64, 5120)},
        ["proj_out.weight", "[64, 5120]", "[64, 48]"],
    ),
    "one is not the model's": (
        lambda tensors: tensors | {"vace_blocks.0.weight": torch.zeros(2)},
        ["vace_blocks.0.weight is unknown"],
    ),
    "another model": (lambda tensors: {"model.weight": torch.zeros(2)}, ["are missing", "and weight is unknown"]),
    "nothing": (lambda tensors: {}, ["are missing"]),
}


def refusal(config: Config, ranks: int = 1) -> str:
    with pytest.raises(InvalidInput) as caught:
        check(config, ranks)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
@pytest.mark.parametrize("how", UNFIT)
def test_what_does_not_fit(
    how: str, pickled: bool, models: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    change, words = UNFIT[how]
    tensors = change(load_file(files["wan.safetensors"]))
    file = tmp_path / ("unfit.pth" if pickled else "unfit.safetensors")
    if pickled:
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    config = configured(models["wan"], {"transformer": file})
    sentence = refusal(config)
    for word in (str(file), "model.single_files", *words):
        assert word in sentence, sentence
    with pytest.raises(RankFailure, match=r"The transformer of .*unfit\..* cannot be loaded"):
        load_weights(WAN_KIND, config, "transformer", torch.float32)


def test_files_components_and_layouts(models: dict[str, Path], files: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    shutil.copy(files["wan.safetensors"], cut)
    os.truncate(cut, cut.stat().st_size - 4)
    cut_pth = tmp_path / "cut.pth"
    shutil.copy(files["vae.pth"], cut_pth)
    os.truncate(cut_pth, cut_pth.stat().st_size - 40)
    code = tmp_path / "code.pth"
    torch.save({"weights": Path("x")}, code)
    numbers = tmp_path / "numbers.pth"
    torch.save({"state_dict": {"a": 3}}, numbers)
    quantised = tmp_path / "fp8.safetensors"
    save_file({"head.head.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, quantised)
    quantised_pth = tmp_path / "fp8.pth"
    torch.save({"decoder.head.2.weight": torch.zeros(2, 2).to(torch.float8_e4m3fn)}, quantised_pth)
    twice = tmp_path / "twice.safetensors.index.json"
    for name in "ab":
        save_file({"head.bias": torch.zeros(2), name: torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    twice.write_text(json.dumps({"weight_map": {name: f"{name}.safetensors" for name in "ab"}}))
    one, several = files["wan.safetensors"], tmp_path / "gone.safetensors.index.json"
    several.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    for model, given, overrides, ranks, words in (
        ("wan", {"transformer": tmp_path / "none.safetensors"}, (), 1, ["none.safetensors", "missing"]),
        ("wan", {"vae": tmp_path / "none.pth"}, (), 1, ["none.pth", "missing"]),
        ("wan", {"transformer": tmp_path}, (), 1, [str(tmp_path), "ends neither in"]),
        ("wan", {"transformer": several}, (), 1, ["gone.safetensors", "missing"]),
        ("wan", {"transformer": tmp_path / "none.index.json"}, (), 1, ["none.index.json", "missing"]),
        ("wan", {"transformer": cut}, (), 1, ["cut.safetensors", "cut short"]),
        ("wan", {"vae": cut_pth}, (), 1, ["cut.pth", "cut short"]),
        ("wan", {"vae": code}, (), 1, ["code.pth", "unpickled safely"]),
        ("wan", {"vae": numbers}, (), 1, ["numbers.pth", "no plain table of tensors"]),
        ("wan", {"transformer": quantised}, (), 1, ["fp8.safetensors", "are missing"]),
        ("wan", {"vae": quantised_pth}, (), 1, ["fp8.pth", "are missing"]),
        ("wan", {"transformer": tmp_path / "wan-Q4_K_M.gguf"}, (), 1, ["wan-Q4_K_M.gguf", "cannot be read"]),
        ("wan", {"transformer": twice}, (), 1, ["twice.safetensors.index.json", "head.bias is in two of the files"]),
        ("wan", {"transformer_2": one}, (), 1, ["transformer_2", "this model has none"]),
        ("hunyuan", {"vae": files["vae.pth"]}, (), 1, ["vae", "HunyuanVideo", "cannot convert"]),
        (
            "wan",
            {"transformer": one},
            ("parallel.shard_weights=true",),
            2,
            ["shard_weights is true", "converted whole"],
        ),
    ):
        sentence = refusal(configured(models[model], given, *overrides), ranks)
        for word in words:
            assert word in sentence, sentence
    check(configured(models["wan"], {"vae": files["vae.pth"]}, "parallel.shard_weights=true"), 2)


def test_how_it_is_written(tmp_path: Path) -> None:
    for given, words in (
        ("{text_encoder: x}", ["model.single_files has the key 'text_encoder'"]),
        ("{vae: 3}", ["model.single_files.vae", "3"]),
        ("x", ["model.single_files", "x"]),
    ):
        with pytest.raises(InvalidInput) as caught:
            tiny_config(f"model.single_files={given}")
        for word in words:
            assert word in str(caught.value), str(caught.value)
    (tmp_path / "wan.pth").touch()
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {path: m, single_files: {transformer: wan.pth, vae: elsewhere.pth}}\n"
        "sampling: {height: 32, width: 32, frames: 5}\n"
    )
    given_files = load_config(file).model.single_files
    assert given_files == {"transformer": str(tmp_path / "wan.pth"), "vae": str(Path.cwd() / "elsewhere.pth")}
