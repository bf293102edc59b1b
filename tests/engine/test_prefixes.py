"""What tools put before the names of tensors in a single file, and what else they put into it."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from engine.checks.preflight import preflight
from engine.components.single_files import load_weights
from engine.config import Config
from engine.errors import InvalidInput
from engine.models.prefixes import own_names
from engine.request import Outputs, make_tasks
from parallel.place import Place
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.original_format import original_wan
from tests.support.small_model import tiny_config

Tensors = dict[str, Tensor]
FP8 = torch.zeros(2, 2).to(torch.float8_e4m3fn)
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.", "transformer.", "module.", "_orig_mod.", "net.")
PREFIXES = (*PREFIXES, "dit.", "module._orig_mod.", "_fsdp_wrapped_module.", "generator.model.", "pipe.dit.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def expected(model: Path) -> Tensors:
    weights: Tensors = WanTransformer3DModel.from_pretrained(model, subfolder="transformer").state_dict()
    return weights


def configured(model: Path, component: str, file: Path) -> Config:
    size = ("sampling.height=32", "sampling.width=48", "sampling.frames=5", "sampling.steps=2")
    named = json.dumps({component: str(file)})
    return tiny_config(f"model.path={model}", f"model.single_files={named}", "cache.method=none", *size)


def check(config: Config) -> list[str]:
    return list(preflight(config, make_tasks(["x"], "", [0], config.sampling, Outputs()), Place(1)).notes)


def load_alike(model: Path, file: Path, expected: Tensors) -> list[str]:
    """Check the file and load it; returns the notes."""
    config = configured(model, "transformer", file)
    notes = check(config)
    loaded = load_weights(WanTransformer3DModel, config, "transformer", torch.float32).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    return notes


@pytest.mark.parametrize("own", [False, True], ids=["original names", "diffusers' names"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names(prefix: str, own: bool, model: Path, expected: Tensors, tmp_path: Path) -> None:
    tensors = expected if own else original_wan(expected)
    file = tmp_path / "prefixed.safetensors"
    save_file({f"{prefix}{name}": tensor.clone() for name, tensor in tensors.items()}, file)
    assert load_alike(model, file, expected) == []


def test_wrappers_inside_names(model: Path, expected: Tensors, tmp_path: Path) -> None:
    """FSDP wraps each block, torch.compile may as well."""
    tensors = {}
    for name, tensor in original_wan(expected).items():
        wrapped = name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.")
        tensors[f"_fsdp_wrapped_module.{wrapped.replace('blocks.1.', 'blocks.1._orig_mod.')}"] = tensor
    save_file(tensors, tmp_path / "wrapped.safetensors")
    assert load_alike(model, tmp_path / "wrapped.safetensors", expected) == []


def test_other_parts_of_the_file_are_left_out_with_a_note(model: Path, expected: Tensors, tmp_path: Path) -> None:
    """Their dtypes do not matter, since they are not loaded."""
    others = {
        "vae.decoder.conv1.weight": torch.ones(2),
        "vae.encoder.conv1.weight": torch.ones(2),
        "text_encoders.umt5xxl.transformer.shared.weight": FP8.clone(),
        "text_encoders.umt5xxl.scaled_fp8": FP8[:0].clone(),  # empty, so not counted
        "first_stage_model.encoder.conv1.weight": torch.ones(2),
        "cond_stage_model.x": torch.ones(2),
        "model_ema.decay": torch.ones(1),
    }
    own = {f"model.diffusion_model.{name}": tensor for name, tensor in original_wan(expected).items()}
    save_file(own | others, tmp_path / "all.safetensors")
    (note,) = load_alike(model, tmp_path / "all.safetensors", expected)
    for words in ("all.safetensors only the transformer is used", "2 under vae.", "1 under text_encoders."):
        assert words in note


def test_the_vae_of_such_a_file(model: Path, expected: Tensors, tmp_path: Path) -> None:
    vae = AutoencoderKLWan.from_pretrained(model, subfolder="vae").state_dict()
    own = {f"first_stage_model.{name}": tensor.clone() for name, tensor in vae.items()}
    beside = {f"model.diffusion_model.{name}": tensor for name, tensor in original_wan(expected).items()}
    save_file(own | beside, tmp_path / "all.safetensors")
    config = configured(model, "vae", tmp_path / "all.safetensors")
    assert f"{len(beside)} under model.diffusion_model." in check(config)[0]
    loaded = load_weights(AutoencoderKLWan, config, "vae", torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in vae.items())


@pytest.mark.parametrize("elements", [0, 2])
def test_markers_and_empty_tensors_are_ignored(elements: int, model: Path, expected: Tensors, tmp_path: Path) -> None:
    markers = {
        "model.diffusion_model.scaled_fp8": torch.zeros(elements).to(torch.float8_e4m3fn),
        "model.diffusion_model.__index_timestep_zero__": torch.zeros(0),
    }
    own = {f"model.diffusion_model.{name}": tensor for name, tensor in original_wan(expected).items()}
    save_file(own | markers, tmp_path / "marked.safetensors")
    assert load_alike(model, tmp_path / "marked.safetensors", expected) == []
    in_halves = {name: tensor.half() for name, tensor in own.items()}
    save_file(in_halves | markers, tmp_path / "halves.safetensors")
    check(configured(model, "transformer", tmp_path / "halves.safetensors"))


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"blocks.0.ffn.0.scale_weight": torch.ones(1)}, ["fp8 with scales", "blocks.0.ffn.0.scale_weight"]),
        ({"blocks.0.ffn.0.weight": FP8}, ["blocks.0.ffn.net.0.proj.weight has the shape [2, 2]"]),
        ({"stray": torch.ones(1)}, ["stray is unknown to this model"]),
        ({"other.stray": torch.ones(1)}, ["other.stray is unknown to this model"]),
        ({"net.net.blocks.0.modulation": torch.ones(1)}, ["net.blocks.0.scale_shift_table is unknown"]),
        ({"net._orig_mod.blocks.0.modulation": torch.ones(1)}, ["blocks.0.modulation twice"]),
    ],
)
def test_what_is_no_part_of_another_component_is_refused(
    beside: Tensors, words: list[str], model: Path, expected: Tensors, tmp_path: Path
) -> None:
    own = {f"net.{name}": tensor for name, tensor in original_wan(expected).items()}
    beside = {name if "stray" in name or name.startswith("net.") else f"net.{name}": t for name, t in beside.items()}
    save_file({name: tensor.clone() for name, tensor in (own | beside).items()}, tmp_path / "odd.safetensors")
    with pytest.raises(InvalidInput) as caught:
        check(configured(model, "transformer", tmp_path / "odd.safetensors"))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_pickled_under_another_key_beside_other_things(model: Path, expected: Tensors, tmp_path: Path) -> None:
    content = {"step": 7, "generator_ema": {f"model.{name}": tensor for name, tensor in expected.items()}}
    torch.save(content, tmp_path / "trained.pt")
    assert load_alike(model, tmp_path / "trained.pt", expected) == []


def test_safetensors_by_its_short_name(model: Path, expected: Tensors, tmp_path: Path) -> None:
    save_file(original_wan(expected), tmp_path / "wan.sft")
    assert load_alike(model, tmp_path / "wan.sft", expected) == []


def test_a_list_of_blocks_is_no_prefix() -> None:
    """Of HunyuanVideo's 860 tensors 480 are in double_blocks."""
    names = [*(f"double_blocks.{i}.{j}" for i in range(20) for j in range(24)), *(f"img_in.{j}" for j in range(380))]
    assert set(own_names(names, "transformer", {"transformer_blocks"}).own.values()) == set(names)
    wrapped = [f"model.{name}" for name in names]
    assert set(own_names(wrapped, "transformer", {"transformer_blocks"}).own.values()) == set(names)


def test_names_of_the_component_are_never_taken_for_a_prefix() -> None:
    """A file that has lost all but the blocks is reported as such, not as one with other names."""
    found = own_names(["blocks.0.a", "blocks.1.a"], "transformer", {"blocks", "head"})
    assert set(found.own.values()) == {"blocks.0.a", "blocks.1.a"}
    assert own_names([], "vae", {"encoder"}).own == {}
    assert dict(own_names(["a.b"], "transformer", {"blocks"}).own) == {"a.b": "b"}
