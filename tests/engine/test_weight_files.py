"""Weight files are found and looked at without torch: what is quantised, scaled or of another kind is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.models.weights import find_weights
from tests.support.bare_model import assert_refused, edit_json, write_bare_model, write_json

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
BYTES |= {"F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}
VAE = "vae/diffusion_pytorch_model.safetensors"
ENCODER = "text_encoder/model.safetensors"
SHARDS = "transformer/diffusion_pytorch_model.safetensors.index.json"

Tensors = dict[str, tuple[str, list[int]]]  # dtype and shape by name
Change = Callable[[Path], object]


def write(file: Path, tensors: Tensors) -> None:
    end, header = 0, {}
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + size]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def put(name: str, **tensors: tuple[str, list[int]]) -> Change:
    """A file of weights; `__` in the name of a tensor stands for a full stop."""
    return lambda folder: write(folder / name, {key.replace("__", "."): value for key, value in tensors.items()})


def rename(name: str, new: str) -> Change:
    return lambda folder: (folder / name).rename((folder / name).with_name(new))


def settings(name: str, **values: Any) -> Change:
    return lambda folder: edit_json(folder / name, **values)


def every(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


W, FP8 = ("F32", [2, 2]), ("F8_E4M3", [2, 2])
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
REFUSED: dict[str, tuple[Change, list[str]]] = {
    "fp8 with two scales for a weight": (
        put(VAE, a__weight=FP8, a__weight_scale=("F32", []), a__scale_weight=("F32", [])),
        ["a.weight_scale", "a.scale_weight", "both scale a.weight", "bf16, fp16, fp32 or plain fp8"],
    ),
    "fp8 with as many scales as columns": (
        put(VAE, a__weight=("F8_E4M3", [2, 3]), a__weight_scale=("F32", [3])),
        ["a.weight_scale", "[3]", "neither one scale nor one a row"],
    ),
    "fp8 with a scale in whole numbers": (put(VAE, a__weight=FP8, a__weight_scale=("U8", [2])), ["weight_scale as U8"]),
    "a layer that ComfyUI describes, but not as JSON": (
        put(VAE, a__weight=FP8, a__comfy_quant=("U8", [2])),
        ["a.comfy_quant says no JSON"],
    ),
    "fp8 with a scale for each block": (put(VAE, a__weight=FP8, a__weight_scale_inv=W), ["weight_scale_inv"]),
    "scales without anything in fp8": (put(VAE, a__weight=W, a__scale_input=("F32", [])), ["a.scale_input"]),
    "many tensors in whole numbers": (put(VAE, **{f"t{i}": ("I8", [2]) for i in range(9)}), ["t0 as I8", "and 7 more"]),
    "mxfp scales": (put(VAE, a__weight=("F8_E8M0", [2])), ["F8_E8M0"]),
    "whole numbers": (put(VAE, a__weight=("I8", [2])), ["a.weight as I8"]),
    "truth values": (put(VAE, a__weight=("BOOL", [2])), ["a.weight as BOOL"]),
    "complex numbers": (put(VAE, a__weight=("C64", [2])), ["a.weight as C64"]),
    "counters of another name": (put(VAE, a__steps=("I64", [2])), ["a.steps as I64"]),
    "bitsandbytes 4 bit": (
        put(ENCODER, a__weight=("U8", [2, 1]), a__weight__absmax=("F32", [1]), a__weight__quant_map=("F32", [16])),
        ["bitsandbytes", "a.weight as U8"],
    ),
    "bitsandbytes 8 bit": (put(ENCODER, a__weight=("I8", [2, 2]), a__SCB=("F32", [2])), ["bitsandbytes", "a.SCB"]),
    "GPTQ": (put(ENCODER, a__qweight=("I32", [2, 2]), a__scales=("F16", [2]), a__g_idx=("I32", [2])), ["GPTQ"]),
    "compressed-tensors": (put(ENCODER, a__weight_packed=("I32", [2])), ["compressed-tensors"]),
    "quanto": (put(ENCODER, a__weight___data=("I8", [2]), a__weight___scale=("F32", [2])), ["quanto"]),
    "Nunchaku": (put(ENCODER, a__qweight=("I8", [2]), a__wscales=("BF16", [2])), ["as I8", "quantised"]),
    "in one shard of two": (put("transformer/model-2.safetensors", b=("I8", [2])), ["transformer", "b as I8"]),
    "a configuration of bitsandbytes": (
        settings("text_encoder/config.json", quantization_config=BNB),
        ["text_encoder/config.json", "quantised (bitsandbytes)"],
    ),
    "a configuration of torchao": (
        settings("transformer/config.json", quantization_config={"quant_method": "torchao", "quant_type": "int8wo"}),
        ["transformer/config.json", "quantised (torchao)"],
    ),
    "a configuration inside another": (
        settings("text_encoder/config.json", text_config={"quantization_config": {"quant_method": "fp8"}}),
        ["quantised (fp8)"],
    ),
    "a configuration of ModelOpt in its own file": (
        lambda folder: write_json(folder / "text_encoder" / "hf_quant_config.json", {}),
        ["hf_quant_config.json", "quantised"],
    ),
    "GGUF": (
        rename(ENCODER, "umt5-xxl-Q4_K_M.gguf"),
        ["model.safetensors are missing", "umt5-xxl-Q4_K_M.gguf", "GGUF"],
    ),
    "pickled": (rename(ENCODER, "pytorch_model.bin"), ["pytorch_model.bin is there", "convert"]),
    "under another name": (rename(VAE, "vae.safetensors"), ["vae.safetensors is there", "rename"]),
    "an adapter": (rename(VAE, "pytorch_lora_weights.safetensors"), ["is a LoRA", "model.loras"]),
    "a PEFT adapter": (
        lambda folder: write_json(folder / "text_encoder" / "adapter_config.json", {}),
        ["text_encoder is a PEFT adapter"],
    ),
    "shards without their index": (
        rename(ENCODER, "model-00001-of-00002.safetensors"),
        ["model-00001-of-00002.safetensors", "no model.safetensors.index.json"],
    ),
    "shards with a variant without their index": (
        rename(ENCODER, "model.fp16-00001-of-00002.safetensors"),
        ["model.fp16-00001-of-00002.safetensors", "index"],
    ),
    "two variants": (
        every(
            put("vae/diffusion_pytorch_model.bf16.safetensors", a=W),
            rename(VAE, "diffusion_pytorch_model.fp16.safetensors"),
        ),
        ["several variants", "bf16, fp16", "rename it to diffusion_pytorch_model.safetensors"],
    ),
    "a variant is cut short": (
        every(
            rename(ENCODER, "model.fp16.safetensors"),
            lambda folder: (folder / "text_encoder/model.fp16.safetensors").write_bytes(b"123"),
        ),
        ["model.fp16.safetensors", "cut short"],
    ),
    "a tensor in two files": (
        put("transformer/model-2.safetensors", a=("F32", [5]), b=("F32", [5])),
        ["model-2.safetensors hold a", "model-1.safetensors holds as well"],
    ),
    "weights of another name in the configuration": (
        settings("text_encoder/config.json", transformers_weights="other.safetensors"),
        ["names other.safetensors as its weights"],
    ),
    "a header that contradicts itself": (
        lambda folder: _lie(folder / VAE),
        ["diffusion_pytorch_model.safetensors are damaged", "download"],
    ),
}


def _lie(file: Path) -> None:
    """A tensor of three numbers in a place for one."""
    header = {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


@pytest.mark.parametrize("how", REFUSED)
def test_it_is_named_for_what_it_is(how: str, tmp_path: Path) -> None:
    assert_refused(tmp_path / "model", *REFUSED[how])


ACCEPTED: dict[str, Change] = {
    "float16": put(VAE, a=("F16", [2])),
    "bfloat16 beside float32": put(VAE, a=("BF16", [2]), b=W),
    "float64": put(VAE, a=("F64", [2])),
    "fp8": put(VAE, a__weight=FP8, b__weight=W),
    "fp8 of the other kind": put(VAE, a__weight=("F8_E5M2", [2])),
    "fp8 in one shard of two": put("transformer/model-2.safetensors", b=FP8),
    "fp8 with scales as ComfyUI writes them": put(
        ENCODER, a__weight=FP8, a__scale_weight=("F32", []), b__weight=W, scaled_fp8=("F8_E4M3", [0])
    ),
    "fp8 with a scale for each row": put(VAE, a__weight=FP8, a__weight_scale=("F32", [2, 1])),
    "an empty marker": put(VAE, a=("F16", [2]), scaled_fp8=("F8_E4M3", [0])),
    "a marker of two numbers": put(VAE, a=("F16", [2]), scaled_fp8=("F8_E4M3", [2])),
    "an empty tensor": put(VAE, a=W, b=("U8", [0])),
    "positions": put(ENCODER, a=W, text_model__embeddings__position_ids=("I64", [1, 77])),
    "no quantisation in the configuration": settings("transformer/config.json", quantization_config={}),
}


@pytest.mark.parametrize("how", ACCEPTED)
def test_it_is_plain(how: str, tmp_path: Path) -> None:
    folder = write_bare_model(tmp_path / "model")
    ACCEPTED[how](folder)
    read_facts(folder)


def test_which_files_are_taken(tmp_path: Path) -> None:
    folder = write_bare_model(tmp_path / "model")
    plain = folder / ENCODER
    for variant in ("fp16", "bf16"):
        put(f"text_encoder/model.{variant}.safetensors", a=W)(folder)
    assert (found := find_weights(folder, "text_encoder")).variant is None and list(found.files) == [plain]
    plain.unlink()
    (folder / "text_encoder" / "model.bf16.safetensors").unlink()
    found = find_weights(folder, "text_encoder")
    assert found.variant == "fp16" and list(found.files) == [folder / "text_encoder" / "model.fp16.safetensors"]
    index = folder / "text_encoder" / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": "model.fp16.safetensors"}})
    assert find_weights(folder, "text_encoder").variant is None
    index.rename(index.with_name("model.safetensors.index.nf.json"))
    with pytest.raises(InvalidInput, match="fp16, nf"):
        find_weights(folder, "text_encoder")


def test_where_there_are_an_index_and_a_single_file_each_library_has_its_way(tmp_path: Path) -> None:
    folder = write_bare_model(tmp_path / "model")
    put("transformer/diffusion_pytorch_model.safetensors", a=W)(folder)
    assert len(find_weights(folder, "transformer").files) == 2, "diffusers takes the index"
    write_json(folder / "text_encoder" / "model.safetensors.index.json", {"weight_map": {"a": "x.safetensors"}})
    assert list(find_weights(folder, "text_encoder").files) == [folder / ENCODER], "transformers the single file"
