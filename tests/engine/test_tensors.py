"""Every tensor of every component is accounted for, by name and shape, before a weight is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.components.files import load_module
from engine.components.parts import parts_of
from engine.components.tensors import check_component, check_tensors
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from parallel.ranks import Ranks
from tests.support.bare_model import edit_json
from tests.support.hunyuan_checkpoint import name_classes
from tests.support.small_model import tiny_config
from tests.support.tiny_models import TINY_MODELS

Tensors = dict[str, Tensor]
# one of each family and each kind of encoder
MODELS = ("Wan 2.1 I2V 14B 480P", "Wan 2.2 T2V A14B", "HunyuanVideo", "HunyuanVideo I2V", "HunyuanVideo 1.5 I2V 480p")
COMPONENTS = [
    ("Wan 2.1 I2V 14B 480P", "transformer"),
    ("Wan 2.1 I2V 14B 480P", "vae"),
    ("Wan 2.1 I2V 14B 480P", "text_encoder"),
    ("Wan 2.1 I2V 14B 480P", "image_encoder"),
    ("Wan 2.2 T2V A14B", "transformer_2"),
    ("HunyuanVideo I2V", "transformer"),
    ("HunyuanVideo I2V", "vae"),
    ("HunyuanVideo I2V", "text_encoder"),
    ("HunyuanVideo I2V", "text_encoder_2"),
    ("HunyuanVideo 1.5 I2V 480p", "transformer"),
    ("HunyuanVideo 1.5 I2V 480p", "vae"),
    ("HunyuanVideo 1.5 I2V 480p", "text_encoder"),
    ("HunyuanVideo 1.5 I2V 480p", "text_encoder_2"),
    ("HunyuanVideo 1.5 I2V 480p", "image_encoder"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: TINY_MODELS[name].write(tmp_path_factory.mktemp("models") / "model") for name in MODELS}


def weights_of(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Give the weights of a component's folder other names or values."""
    file = weights_of(folder)
    changed = {name: tensor.clone() for name, tensor in change(load_file(file)).items()}
    save_file(changed, file)


def refusal(check: Callable[[], object]) -> str:
    with pytest.raises(InvalidInput) as caught:
        check()
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 600
    return sentence


@pytest.mark.parametrize(("model", "component"), COMPONENTS)
def test_a_tensor_that_is_missing_renamed_or_of_another_shape(
    model: str, component: str, models: dict[str, Path], tmp_path: Path
) -> None:
    kind = parts_of(read_facts(models[model]).family).kind(component)
    folder = tmp_path / component
    shutil.copytree(models[model] / component, folder)
    file = weights_of(folder)
    kept = file.read_bytes()
    names = sorted(name for name, tensor in load_file(file).items() if tensor.ndim > 1)
    first, last = names[0], names[-1]

    def check() -> None:
        check_component(kind, str(tmp_path), component)

    check()
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != first})
    sentence = refusal(check)
    assert str(folder) in sentence and " missing" in sentence and "unknown" not in sentence

    file.write_bytes(kept)
    rewrite(folder, lambda tensors: {f"{n}_" if n == last else n: tensor for n, tensor in tensors.items()})
    sentence = refusal(check)
    assert " missing" in sentence and f"{last.split('.')[-1]}_ is unknown" in sentence

    file.write_bytes(kept)
    rewrite(folder, lambda tensors: tensors | {last: torch.zeros(3, 5)})
    assert "has the shape [3, 5] instead of" in refusal(check)

    file.write_bytes(kept)
    rewrite(folder, lambda tensors: tensors | {"surprise": torch.ones(2)})
    assert "surprise is unknown" in refusal(check)


def test_loading_refuses_it_before_any_weight(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["Wan 2.1 I2V 14B 480P"], tmp_path / "model"))
    rewrite(folder / "text_encoder", lambda tensors: {f"x.{name}": tensor for name, tensor in tensors.items()})
    sentence = refusal(lambda: load_model(tiny_config(f"model.path={folder}"), Ranks()))
    assert "(encoder.block.0.layer.0.SelfAttention.k.weight, " in sentence and " more are missing" in sentence
    assert "x.encoder.block.0.layer.0.SelfAttention.k.weight, " in sentence and "and 9 more are unknown" in sentence


def test_sizes_in_the_configuration_that_the_weights_do_not_have(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["Wan 2.1 I2V 14B 480P"], tmp_path / "model"))
    edit_json(folder / "transformer" / "config.json", ffn_dim=64)

    def check() -> None:
        check_tensors(tiny_config(f"model.path={folder}"), read_facts(folder))

    sentence = refusal(check)
    assert "transformer" in sentence and "instead of [64" in sentence and "8 more" in sentence
    shutil.copy(models["Wan 2.1 I2V 14B 480P"] / "transformer" / "config.json", folder / "transformer")
    edit_json(folder / "text_encoder" / "config.json", d_model="wide")
    assert "text_encoder/config.json describes no UMT5EncoderModel" in refusal(check)


def test_more_layers_than_there_are_tensors(models: dict[str, Path], tmp_path: Path) -> None:
    """To build them, if only to compare their shapes, would take minutes."""
    for component, key in (("transformer", "num_layers"), ("image_encoder", "num_hidden_layers")):
        folder = tmp_path / component
        shutil.copytree(models["Wan 2.1 I2V 14B 480P"] / component, folder)
        edit_json(folder / "config.json", **{key: 100_000})
        with pytest.raises(InvalidInput, match=f"has {key} 100000, but the weights beside it are"):
            check_component(None, str(tmp_path), component)


def test_two_names_of_one_tensor(models: dict[str, Path], tmp_path: Path) -> None:
    """transformers strips the prefix and takes either."""
    folder = tmp_path / "text_encoder"
    shutil.copytree(models["Wan 2.1 I2V 14B 480P"] / "text_encoder", folder)
    rewrite(folder, lambda tensors: tensors | {"transformer.shared.weight": torch.zeros(70, 16)})
    kind = parts_of(read_facts(models["Wan 2.1 I2V 14B 480P"]).family).kind("text_encoder")
    sentence = refusal(lambda: check_component(kind, str(tmp_path), "text_encoder"))
    assert "shared.weight and transformer.shared.weight are the same tensor" in sentence


@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_a_class_with_a_head_in_the_index(component: str, models: dict[str, Path], tmp_path: Path) -> None:
    """Its head is not loaded, and diffusers' pipeline takes the class without one."""
    folder = Path(shutil.copytree(models["HunyuanVideo"], tmp_path / "model"))
    name_classes(folder, text_encoder="LlamaForCausalLM", text_encoder_2="CLIPTextModelWithProjection")
    prefix, head = ("model.", "lm_head.weight") if component == "text_encoder" else ("", "text_projection.weight")
    rewrite(folder / component, lambda ts: {f"{prefix}{name}": t for name, t in ts.items()} | {head: torch.ones(2, 2)})
    config = tiny_config(f"model.path={folder}")
    facts = read_facts(folder)
    check_tensors(config, facts)
    encoder: Any = parts_of(facts.family).prompt_encoder(config, Ranks(), False)
    expected = load_file(weights_of(models["HunyuanVideo"] / component))
    loaded = getattr(encoder._pipeline, component).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def prefixed(prefix: str) -> Callable[[str], str]:
    return lambda name: f"{prefix}{name}"


def llava_of_transformers_4(name: str) -> str:
    name = name.replace("language_model.lm_head.", "LM_HEAD")
    return name.replace("language_model.", "language_model.model.", 1).replace("LM_HEAD", "language_model.lm_head.")


# how folders name their tensors that other versions and other classes wrote, and what lies beside them
ELSEWHERE: dict[str, tuple[str, str, Callable[[str], str], Tensors]] = {
    "CLIP vision as transformers 4 names it": (
        "Wan 2.1 I2V 14B 480P",
        "image_encoder",
        prefixed("vision_model."),
        {"vision_model.embeddings.position_ids": torch.arange(5)[None]},
    ),
    "CLIP whole": (
        "Wan 2.1 I2V 14B 480P",
        "image_encoder",
        prefixed("vision_model."),
        {
            "text_model.final_layer_norm.weight": torch.ones(3),
            "visual_projection.weight": torch.ones(3, 3),
            "text_projection.weight": torch.ones(3, 3),
            "logit_scale": torch.tensor(1.0),
        },
    ),
    "UMT5 whole": (
        "Wan 2.1 I2V 14B 480P",
        "text_encoder",
        str,
        {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2), "lm_head.weight": torch.ones(2, 2)},
    ),
    "UMT5 with its table under the other name": (
        "Wan 2.1 I2V 14B 480P",
        "text_encoder",
        lambda name: name.replace("shared.weight", "encoder.embed_tokens.weight"),
        {},
    ),
    "CLIP text as transformers 4 names it": (
        "HunyuanVideo I2V",
        "text_encoder_2",
        prefixed("text_model."),
        {"text_model.embeddings.position_ids": torch.arange(77)[None], "text_projection.weight": torch.ones(3, 3)},
    ),
    "Qwen2.5-VL whole": (
        "HunyuanVideo 1.5 I2V 480p",
        "text_encoder",
        prefixed("model."),
        {"visual.blocks.0.norm1.weight": torch.ones(2), "lm_head.weight": torch.ones(2, 2)},
    ),
    "ByT5 whole": (
        "HunyuanVideo 1.5 I2V 480p",
        "text_encoder_2",
        str,
        {"decoder.final_layer_norm.weight": torch.ones(2), "lm_head.weight": torch.ones(2, 2)},
    ),
    "SigLIP as transformers 4 names it": (
        "HunyuanVideo 1.5 I2V 480p",
        "image_encoder",
        prefixed("vision_model."),
        {"logit_bias": torch.tensor(1.0), "text_model.head.weight": torch.ones(2, 2)},
    ),
    "Llava as transformers 4 names it": ("HunyuanVideo I2V", "text_encoder", llava_of_transformers_4, {}),
    "a marker and an empty tensor": (
        "Wan 2.1 I2V 14B 480P",
        "text_encoder",
        str,
        {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn), "__index_timestep_zero__": torch.zeros(0)},
    ),
}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_what_other_versions_and_classes_write_is_loaded_alike(
    how: str, models: dict[str, Path], tmp_path: Path
) -> None:
    model, component, rename, beside = ELSEWHERE[how]
    kind = parts_of(read_facts(models[model]).family).kind(component)
    expected = load_module(kind, str(models[model]), component, torch.float32).state_dict()
    folder = tmp_path / "model"
    shutil.copytree(models[model] / component, folder / component)
    rewrite(folder / component, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()} | beside)
    assert load_file(weights_of(folder / component)).keys() != load_file(weights_of(models[model] / component)).keys()
    check_component(kind, str(folder), component)
    loaded = load_module(kind, str(folder), component, torch.float32).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


@pytest.mark.parametrize("model", ["Wan 2.1 I2V 14B 480P", "HunyuanVideo I2V"])
def test_folders_with_one_variant_are_loaded(model: str, models: dict[str, Path], tmp_path: Path) -> None:
    """As save_pretrained names them; each component may have another one."""
    folder = Path(shutil.copytree(models[model], tmp_path / "model"))
    facts = read_facts(folder)
    for component, variant in zip(facts.components, ("fp16", "bf16", "fp16", "bf16"), strict=False):
        file = weights_of(folder / component)
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))
    config = tiny_config(f"model.path={folder}")
    read_facts(folder)
    loaded, expected = load_model(config, Ranks()), load_model(tiny_config(f"model.path={models[model]}"), Ranks())
    for module, wanted in ((loaded.adapter.transformer, expected.adapter.transformer),):
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), wanted.parameters(), strict=True))


def test_shards_with_a_variant(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["Wan 2.1 I2V 14B 480P"]
    folder = tmp_path / "model"
    for component in ("transformer", "text_encoder"):
        kind = parts_of(read_facts(model).family).kind(component)
        whole = load_module(kind, str(model), component, torch.float32)
        whole.save_pretrained(folder / component, max_shard_size="5KB", variant="fp16")
        assert len(list((folder / component).glob("*.safetensors"))) > 2
        check_component(kind, str(folder), component)
        loaded = load_module(kind, str(folder), component, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), whole.parameters(), strict=True))
        index = next((folder / component).glob("*.index.fp16.json"))
        assert set(json.loads(index.read_text())["weight_map"].values())
