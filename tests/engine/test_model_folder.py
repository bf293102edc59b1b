"""A model folder is looked at before anything is allocated: whatever is wrong with it is one sentence."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.models.facts import read_facts
from tests.support.bare_model import (
    add_second,
    assert_refused,
    edit_json,
    write_bare_model,
    write_json,
    write_safetensors,
)

INDEX = "model_index.json"
SHARDS = "transformer/diffusion_pytorch_model.safetensors.index.json"
SECOND_SHARD = "transformer/model-2.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
TOKENS = "tokenizer/tokenizer.json"
FLUX = ["diffusers", "FluxTransformer2DModel"]

Damage = Callable[[Path], object]


def remove(name: str) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / name
        shutil.rmtree(file) if file.is_dir() else file.unlink()

    return damage


def put(name: str, text: str | bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def edit(name: str, **changes: object) -> Damage:
    return lambda folder: edit_json(folder / name, **changes)


def cut(name: str, num_bytes: int = 4) -> Damage:
    return lambda folder: os.truncate(folder / name, max((folder / name).stat().st_size - num_bytes, 0))


def with_second(then: Damage) -> Damage:
    def damage(folder: Path) -> None:
        add_second(folder)
        then(folder)

    return damage


def with_clip(then: Damage) -> Damage:
    """Make the transformer one that wants to know what CLIP sees, and give the folder what is needed for it."""

    def damage(folder: Path) -> None:
        edit_json(folder / "transformer/config.json", image_dim=8)
        edit_json(folder / INDEX, image_encoder=["transformers", "CLIPVisionModel"])
        write_json(folder / "image_encoder/config.json", {"architectures": ["CLIPVisionModel"]})
        write_json(folder / "image_processor/preprocessor_config.json", {})
        write_safetensors(folder / "image_encoder/model.safetensors", {"a": 3})
        read_facts(folder)
        then(folder)

    return damage


def with_words(rows: int, then: Damage) -> Damage:
    """Give the table of the text encoder that many rows."""

    def damage(folder: Path) -> None:
        edit_json(folder / "text_encoder/config.json", vocab_size=rows)
        put(TOKENS, json.dumps({"model": {"vocab": {str(number): number for number in range(rows)}}}))(folder)
        read_facts(folder)
        then(folder)

    return damage


DAMAGED: dict[str, tuple[Damage, list[str]]] = {
    "no folder": (shutil.rmtree, ["no model folder"]),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("")), ["no model folder"]),
    "no index": (remove(INDEX), [INDEX, "missing"]),
    "garbled index": (put(INDEX, "{"), [INDEX, "cannot be read"]),
    "index of another format": (put(INDEX, b"\xff\xfe\x00"), [INDEX, "cannot be read"]),
    "deep index": (put(INDEX, "[" * 100_000), [INDEX, "cannot be read"]),
    "index is a list": (put(INDEX, "[]"), [INDEX, "no settings"]),
    "index is a pointer": (put(INDEX, POINTER), [INDEX, "git lfs pull"]),
    "another pipeline": (edit(INDEX, _class_name="FluxPipeline"), ["FluxPipeline", "WanPipeline"]),
    "no pipeline": (edit(INDEX, _class_name=[3]), ["[3]", "WanPipeline"]),
    "garbled boundary": (with_second(edit(INDEX, boundary_ratio="most")), ["most"]),
    "component not listed": (edit(INDEX, vae=None), [INDEX, "lists no vae", "WanPipeline"]),
    "component listed as none": (edit(INDEX, text_encoder=[None, None]), [INDEX, "lists no text_encoder"]),
    "component listed oddly": (edit(INDEX, vae="AutoencoderKLWan"), [INDEX, "lists no vae"]),
    "transformer listed as another": (edit(INDEX, transformer=FLUX), [INDEX, FLUX[1], "a WanTransformer3DModel"]),
    "encoder listed as another": (
        edit(INDEX, text_encoder=["transformers", "T5EncoderModel"]),
        [INDEX, "text_encoder is a T5EncoderModel", "a UMT5EncoderModel"],
    ),
    "transformer of another class": (
        edit("transformer/config.json", _class_name="WanVACETransformer3DModel"),
        ["transformer/config.json", "WanVACETransformer3DModel", "WanTransformer3DModel"],
    ),
    "vae of another class": (
        put("vae/config.json", '{"_class_name": "AutoencoderKL"}'),
        ["vae/config.json", "AutoencoderKL,", "AutoencoderKLWan"],
    ),
    "encoder of another class": (
        edit("text_encoder/config.json", architectures=["T5ForConditionalGeneration"]),
        ["text_encoder/config.json", "T5ForConditionalGeneration", "UMT5EncoderModel"],
    ),
    "second transformer of another class": (
        with_second(edit("transformer_2/config.json", _class_name=FLUX[1])),
        ["transformer_2/config.json", FLUX[1]],
    ),
    "second transformer listed as another": (with_second(edit(INDEX, transformer_2=FLUX)), [INDEX, FLUX[1]]),
    "no second transformer": (with_second(remove("transformer_2")), ["transformer_2", "config.json", "missing"]),
    "second transformer of another size": (
        with_second(edit("transformer_2/config.json", num_layers=2)),
        ["two transformers", "num_layers"],
    ),
    "second transformer cut short": (
        with_second(cut("transformer_2/model-2.safetensors", 20)),
        ["transformer_2", "model-2.safetensors", "cut short"],
    ),
    "no CLIP": (with_clip(remove("image_encoder")), ["image_encoder/config.json", "missing"]),
    "CLIP of another class": (
        with_clip(edit("image_encoder/config.json", architectures=["SiglipVisionModel"])),
        ["image_encoder", "SiglipVisionModel"],
    ),
    "CLIP not listed": (with_clip(edit(INDEX, image_encoder=[None, None])), [INDEX, "lists no image_encoder"]),
    "CLIP cut short": (with_clip(cut("image_encoder/model.safetensors")), ["image_encoder", "cut short"]),
    "no image processor": (with_clip(remove("image_processor")), ["preprocessor_config.json", "missing"]),
    "garbled settings": (put("vae/config.json", "{"), ["vae", "config.json", "cannot be read"]),
    "settings are a list": (put("vae/config.json", "[]"), ["vae", "config.json", "no settings"]),
    "settings are a pointer": (put("vae/config.json", POINTER), ["vae", "config.json", "git lfs pull"]),
    "settings are a folder": (
        lambda folder: ((folder / "vae/config.json").unlink(), (folder / "vae/config.json").mkdir()),
        ["vae", "config.json", "cannot be read"],
    ),
    "no component": (remove("text_encoder"), ["text_encoder", "config.json", "missing"]),
    "no heads": (edit("transformer/config.json", num_attention_heads=None), ["num_attention_heads"]),
    "heads in words": (edit("transformer/config.json", num_attention_heads="four"), ["four"]),
    "a VAE of other channels": (edit("vae/config.json", z_dim=48), ["48 channels (z_dim)", "makes 16"]),
    "one mean for all channels": (
        edit("vae/config.json", latents_mean=[0.0]),
        ["vae/config.json has latents_mean of 1 numbers for 16 channels"],
    ),
    "a mean that is no list": (edit("vae/config.json", latents_mean=0.5), ["latents_mean of 0.5"]),
    "scales that are no numbers": (
        edit("vae/config.json", latents_std=[float("nan")] * 16),
        ["vae/config.json scales latents by nan"],
    ),
    "a scale in words": (edit("vae/config.json", scaling_factor="one"), ["scales latents by 'one'"]),
    "a scale of nothing": (edit("vae/config.json", latents_std=[0.0] * 16), ["scales latents by 0"]),
    "an encoder of another width": (
        lambda folder: (
            edit_json(folder / "transformer/config.json", text_dim=4096),
            edit_json(folder / "text_encoder/config.json", d_model=1024),
        ),
        ["text_encoder", "1024 numbers (d_model)", "takes 4096 (text_dim)"],
    ),
    "CLIP of another width": (
        with_clip(edit("image_encoder/config.json", vision_config={"hidden_size": 1024})),
        ["image_encoder", "1024 numbers", "takes 8 (image_dim)"],
    ),
    "no scheduler": (remove("scheduler"), ["scheduler_config.json", "missing"]),
    "no tokenizer": (remove("tokenizer/tokenizer.json"), ["tokenizer.json"]),
    "tokenizer of another model": (
        with_words(2, put(TOKENS, '{"model": {"vocab": {"a": 0, "b": 2}}}')),
        ["numbers its tokens up to 2", "text_encoder has 2 ", "different models"],
    ),
    "tokenizer of another model, a list": (
        with_words(2, put(TOKENS, '{"model": {"vocab": [["a", 0.0], ["b", -1.0], ["c", -2.0]]}}')),
        ["up to 2", "has 2 "],
    ),
    "tokenizer of another model, in another file": (
        with_words(2, lambda folder: (remove(TOKENS)(folder), put("tokenizer/vocab.json", '{"a": 7}')(folder))),
        ["up to 7", "has 2 "],
    ),
    "tokenizer with a token too many": (
        with_words(9, put(TOKENS, '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 9}]}')),
        ["up to 9", "has 9 "],
    ),
    "tokenizer is cut short": (put("tokenizer/tokenizer.json", '{"model": {'), ["tokenizer.json", "cannot be read"]),
    "tokenizer has garbled settings": (
        put("tokenizer/tokenizer_config.json", "{"),
        ["tokenizer_config.json", "cannot be read"],
    ),
    "tokenizer is a pointer": (put("tokenizer/spiece.model", POINTER), ["spiece.model", "git lfs pull"]),
    "no weights": (remove("vae/diffusion_pytorch_model.safetensors"), ["diffusion_pytorch_model", "missing"]),
    "a shard is missing": (remove(SECOND_SHARD), ["model-2.safetensors", "missing"]),
    "a shard is cut short": (cut(SECOND_SHARD), ["model-2.safetensors", "cut short"]),
    "a shard is cut in its header": (cut(SECOND_SHARD, 30), ["model-2.safetensors", "cut short"]),
    "a shard has more than it says": (
        lambda folder: (folder / SECOND_SHARD).write_bytes((folder / SECOND_SHARD).read_bytes() + b"1234"),
        ["model-2.safetensors", "cut short or damaged"],
    ),
    "a shard is empty": (put(SECOND_SHARD, ""), ["model-2.safetensors", "cut short"]),
    "a shard is a pointer": (put(SECOND_SHARD, POINTER), ["model-2.safetensors", "git lfs pull"]),
    "a shard is a zip": (put(SECOND_SHARD, b"PK\x03\x04" + bytes(100)), ["model-2.safetensors"]),
    "a shard is a list": (put(SECOND_SHARD, b"\x02" + bytes(7) + b"[]"), ["model-2.safetensors", "cannot be read"]),
    "shards are swapped": (
        edit(SHARDS, weight_map={"b": "model-1.safetensors", "a": "model-2.safetensors"}),
        ["model-1.safetensors", "lack b"],
    ),
    "the shards' index is garbled": (put(SHARDS, "{"), [SHARDS, "cannot be read"]),
    "the shards' index is empty": (put(SHARDS, "{}"), [SHARDS, "lists no weights"]),
    "the shards' index names none": (edit(SHARDS, weight_map={}), [SHARDS, "lists no weights"]),
    "the shards' index is a list": (edit(SHARDS, weight_map=["a"]), [SHARDS, "lists no weights"]),
    "the shards' index has numbers": (edit(SHARDS, weight_map={"a": 3}), [SHARDS, "lists no weights"]),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_model(how: str, tmp_path: Path) -> None:
    assert_refused(tmp_path / "model", *DAMAGED[how])


@pytest.mark.parametrize(
    ("file", "key"), [("transformer/config.json", "_class_name"), ("text_encoder/config.json", "architectures")]
)
def test_settings_that_name_no_class_are_taken_at_the_index_word(file: str, key: str, tmp_path: Path) -> None:
    folder = write_bare_model(tmp_path / "model")
    edit_json(folder / file, **{key: None})
    read_facts(folder)
