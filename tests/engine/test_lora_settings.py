"""The strength of an adapter: folders of peft against its own merge, alphas, settings in headers, and what is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.components.loras.adding import add_loras, describe_loras, lora_notes
from engine.components.loras.layers import layers_by_name
from engine.components.loras.plan import Plan, plan_lora
from engine.config import LoraConfig
from engine.errors import InvalidInput
from engine.models.layer_names import WAN
from tests.support.published import random_wan

Tensors = dict[str, Tensor]
TO_Q, TO_K = "blocks.0.attn1.to_q", "blocks.1.attn2.to_k"


@pytest.fixture
def transformer() -> Any:
    return random_wan("Wan2.1-T2V-1.3B").requires_grad_(False)


def plan(transformer: Any, path: Path, scale: float = 1.0, to: Any = "transformer") -> Plan:
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    return plan_lora(LoraConfig(path=str(path), scale=scale, transformer=to), WAN, layers_by_name(shapes, WAN))


def added(transformer: Any, path: Path, scale: float = 1.0) -> Tensors:
    add_loras(transformer, [plan(transformer, path, scale)], "transformer")
    return dict(transformer.state_dict())


ATTENTION = ["to_q", "to_k", "to_out.0"]
PEFT: dict[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=[*ATTENTION, "ffn.net.0.proj", "patch_embedding", "proj_out"],
        rank_pattern={"to_q": 2},
        alpha_pattern={"blocks.0.attn1.to_q": 9, "attn2.to_k": 1},
        lora_bias=True,
        modules_to_save=["time_proj"],
    ),
    "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION, use_rslora=True),
    "dora": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=[*ATTENTION, "patch_embedding"], use_dora=True),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=6, target_modules=ATTENTION),
    "lokr of two products": lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=ATTENTION, decompose_both=True),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=ATTENTION, alpha_pattern={"to_k": 2}),
}


@pytest.mark.parametrize("kind", PEFT)
def test_what_peft_saves_is_what_peft_merges(kind: str, transformer: Any, tmp_path: Path) -> None:
    plain = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    torch.manual_seed(3)
    model = peft.get_peft_model(transformer, PEFT[kind]())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().state_dict()
    fresh = random_wan("Wan2.1-T2V-1.3B").requires_grad_(False)
    fresh.load_state_dict(plain)
    found = added(fresh, tmp_path)
    assert found.keys() == merged.keys()
    for name, expected in merged.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=2e-5, msg=name)
    assert sum(not torch.equal(found[name], before) for name, before in plain.items()) >= 12
    assert plan(fresh, tmp_path).notes == ()


def pair(layer: str, rank: int = 2, ends: tuple[str, str] = (".lora_A.weight", ".lora_B.weight")) -> Tensors:
    torch.manual_seed(len(layer))
    return {layer + ends[0]: torch.randn(rank, 48), layer + ends[1]: torch.randn(48, rank)}


def write(file: Path, tensors: Tensors, **metadata: str) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file, metadata=metadata or None)
    return file


def strength(transformer: Any, file: Path, layer: str = TO_Q) -> float:
    """What the product of a layer's two factors is multiplied by."""
    tensors = load_file(file)
    before = transformer.get_parameter(f"{layer}.weight").clone()
    change = added(transformer, file)[f"{layer}.weight"] - before
    product = next(t for n, t in tensors.items() if n.endswith("B.weight")) @ next(
        t for n, t in tensors.items() if n.endswith("A.weight")
    )
    found = float((change * product).sum() / product.square().sum())
    torch.testing.assert_close(change, found * product, rtol=0, atol=1e-5)
    return round(found, 4)


def test_alpha_beside_a_layer_goes_before_the_settings(transformer: Any, tmp_path: Path) -> None:
    settings = json.dumps({"transformer.r": 2, "transformer.lora_alpha": 8, "text_encoder.lora_alpha": 99})
    file = write(tmp_path / "a.safetensors", pair(f"transformer.{TO_Q}"), lora_adapter_metadata=settings)
    assert strength(transformer, file) == 4.0
    alone = pair(f"transformer.{TO_Q}") | {f"transformer.{TO_Q}.alpha": torch.tensor([[3]])}
    assert strength(transformer, write(tmp_path / "b.safetensors", alone, lora_adapter_metadata=settings)) == 1.5
    assert strength(transformer, write(tmp_path / "c.safetensors", pair(TO_Q))) == 1.0


def test_the_note_of_a_trainer_is_not_applied_and_said(transformer: Any, tmp_path: Path) -> None:
    """musubi's converter keeps it, and has multiplied the weights by it."""
    file = write(tmp_path / "a.safetensors", pair(TO_Q), ss_network_alpha="16", ss_network_dim="2")
    assert strength(transformer, file) == 1.0
    (note,) = plan(transformer, file).notes
    assert "ss_network_alpha" in note and "16" in note
    equal = write(tmp_path / "b.safetensors", pair(TO_Q), ss_network_alpha="2.0", ss_network_dim="2")
    assert plan(transformer, equal).notes == ()
    beside = pair(TO_Q) | {f"{TO_Q}.alpha": torch.tensor(16.0)}
    assert plan(transformer, write(tmp_path / "c.safetensors", beside, ss_network_alpha="16")).notes == ()


def test_a_file_of_peft_without_its_settings(transformer: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "adapter_model.safetensors", pair(f"base_model.model.{TO_Q}"))
    (note,) = plan(transformer, file).notes
    assert "adapter_config.json" in note
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    assert plan(transformer, file).notes == () and strength(transformer, file) == 2.0
    renamed = file.rename(tmp_path / "style.safetensors")
    assert strength(transformer, renamed) == 2.0, "the only file beside the settings"
    write(tmp_path / "other.safetensors", pair(TO_K))
    assert plan(transformer, renamed).notes, "the settings may be those of the other file"


def test_an_alpha_of_zero_is_said(transformer: Any, tmp_path: Path) -> None:
    tensors = pair(TO_Q) | {f"{TO_Q}.alpha": torch.tensor(0.0)} | pair(TO_K)
    found = plan(transformer, write(tmp_path / "a.safetensors", tensors))
    assert found.notes == (
        f"2 tensors are not applied: they have no effect with an alpha of 0 ({TO_Q}.lora_A.weight, "
        f"{TO_Q}.lora_B.weight)",
    )
    assert found.applied == 3


def test_one_file_for_both_experts(transformer: Any, tmp_path: Path) -> None:
    tensors = pair(f"transformer.{TO_Q}") | pair(f"transformer_2.{TO_K}")
    file = write(tmp_path / "both.safetensors", tensors)
    for to, layer, other in (("transformer", TO_Q, "transformer_2"), ("transformer_2", TO_K, "transformer")):
        found = plan(transformer, file, to=to)
        assert [change.layer.name for change in found.changes] == [layer]
        (note,) = found.notes
        assert f"2 tensors are not applied: they are for {other}" in note
    one = write(tmp_path / "one.safetensors", pair(f"transformer.{TO_Q}"))
    assert plan(transformer, one, to="transformer_2").applied == 2, "saved by a pipeline, which knows one name"
    low = write(tmp_path / "low.safetensors", pair(f"low_noise_model.{TO_Q}"))
    assert plan(transformer, low, to="transformer_2").applied == 2


def test_a_weight_of_another_shape_is_said_to_be_one(transformer: Any, tmp_path: Path) -> None:
    same = pair(TO_Q) | {f"{TO_Q}.reshape_weight": torch.tensor([48, 48])}
    assert plan(transformer, write(tmp_path / "a.safetensors", same)).applied == 3
    wider = pair(TO_Q) | {f"{TO_Q}.reshape_weight": torch.tensor([48, 64])}
    with pytest.raises(InvalidInput, match=r"reshape_weight .* 48×64, but that of .* is 48×48 here"):
        plan(transformer, write(tmp_path / "b.safetensors", wider))
    shape = list(transformer.patch_embedding.weight.shape)
    channels = {"patch_embedding.reshape_weight": torch.tensor([shape[0], 36, *shape[2:]])}
    channels |= {"patch_embedding.diff": torch.ones(shape), "patch_embedding.diff_b": torch.ones(shape[0])}
    (note,) = plan(transformer, write(tmp_path / "c.safetensors", pair(TO_Q) | channels)).notes
    assert "3 tensors" in note and "patch_embedding of 36 input channels, and that of this model has 16" in note


def test_what_is_not_applied_is_in_the_report(transformer: Any, tmp_path: Path) -> None:
    te = {f"lora_te_{number}.lora_up.weight": torch.zeros(2, 2) for number in range(5)}
    found = plan(transformer, write(tmp_path / "style.safetensors", pair(TO_Q) | te), scale=0.5)
    (entry,) = describe_loras([found])
    (note,) = entry["notes"]
    assert note == (
        "5 tensors are not applied: they are for text encoders, and adapters are added to transformers alone "
        "(lora_te_0.lora_up.weight, lora_te_1.lora_up.weight, lora_te_2.lora_up.weight and 2 more)"
    )
    assert entry["tensors_applied"] == 2 and lora_notes([found]) == [f"style.safetensors: {note}"]


def test_scale_zero_changes_nothing_of_a_plain_adapter(transformer: Any, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    tensors = pair(TO_Q) | {f"{TO_K}.set_weight": torch.ones(48, 48), f"{TO_K}.diff_b": torch.ones(48)}
    after = added(transformer, write(tmp_path / "a.safetensors", tensors), scale=0.0)
    assert isinstance(transformer, WanTransformer3DModel)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_products_with_a_core(transformer: Any, tmp_path: Path) -> None:
    """LoCon, LoHa and LoKr of a convolution, by LyCORIS: each output and input of a core of rank 2 x 2 is mixed."""
    torch.manual_seed(5)
    shape = list(transformer.patch_embedding.weight.shape)

    def core(prefix: str, outputs: int, inputs: int, *, t: str, a: str, b: str) -> tuple[Tensors, Tensor]:
        values = {t: torch.randn(2, 2, *shape[2:]), a: torch.randn(2, outputs), b: torch.randn(2, inputs)}
        product = torch.zeros(outputs, inputs, *shape[2:])
        for p in range(2):
            for q in range(2):
                product += values[a][p][:, None, None, None, None] * values[b][q][:, None, None, None] * values[t][p, q]
        return {f"{prefix}.{kind}": value for kind, value in values.items()}, product

    name, before = "patch_embedding", transformer.patch_embedding.weight.clone()
    first, one = core(name, shape[0], shape[1], t="hada_t1", a="hada_w1_a", b="hada_w1_b")
    second, two = core(name, shape[0], shape[1], t="hada_t2", a="hada_w2_a", b="hada_w2_b")
    loha = write(tmp_path / "a.safetensors", first | second | {f"{name}.alpha": torch.tensor(3)})
    expected = before + one * two * 3 / 2
    torch.testing.assert_close(added(transformer, loha)[f"{name}.weight"], expected, rtol=0, atol=1e-4)
    transformer.patch_embedding.weight.data = before.clone()
    tensors, large = core(name, shape[0] // 2, shape[1] // 4, t="lokr_t2", a="lokr_w2_a", b="lokr_w2_b")
    small = torch.randn(2, 4)
    lokr = write(tmp_path / "b.safetensors", tensors | {f"{name}.lokr_w1": small, f"{name}.alpha": torch.tensor(5)})
    rows = [torch.cat([small[i, j] * large for j in range(4)], dim=1) for i in range(2)]
    expected = before + torch.cat(rows) * 5 / 2
    torch.testing.assert_close(added(transformer, lokr)[f"{name}.weight"], expected, rtol=0, atol=1e-4)
    transformer.patch_embedding.weight.data = before.clone()
    tensors, product = core(name, shape[0], shape[1], t="lora_mid.weight", a="lora_up.weight", b="lora_down.weight")
    up, down = (tensors[f"{name}.lora_{half}.weight"] for half in ("up", "down"))
    tensors[f"{name}.lora_up.weight"] = up.T.reshape(shape[0], 2, 1, 1, 1)
    tensors[f"{name}.lora_down.weight"] = down.reshape(2, shape[1], 1, 1, 1)
    locon = write(tmp_path / "c.safetensors", tensors | {f"{name}.alpha": torch.tensor(5)})
    torch.testing.assert_close(added(transformer, locon)[f"{name}.weight"], before + product * 2.5, rtol=0, atol=1e-4)
