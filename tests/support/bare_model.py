"""A model folder with all that is looked at before loading, and no weights worth the name."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InvalidInput
from engine.models.facts import read_facts

TRANSFORMER = ["diffusers", "WanTransformer3DModel"]
INDEX = {
    "_class_name": "WanPipeline",
    "transformer": TRANSFORMER,
    "transformer_2": [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "expand_timesteps": False,
}


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def edit_json(file: Path, **changes: Any) -> None:
    """Give keys other values; None drops a key."""
    content = json.loads(file.read_text()) | changes
    write_json(file, {key: value for key, value in content.items() if value is not None})


def write_safetensors(file: Path, tensors: dict[str, int]) -> None:
    """A file of float32 tensors by number of elements, all zero; the format is simple enough to write by hand."""
    end, header = 0, {}
    for name, elements in tensors.items():
        header[name] = {"dtype": "F32", "shape": [elements], "data_offsets": [end, end := end + 4 * elements]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def write_bare_model(folder: Path) -> Path:
    """A Wan text-to-video model: 4 heads, 3 blocks, its transformer's weights over two files."""
    write_json(folder / "model_index.json", INDEX)
    sizes = {"num_attention_heads": 4, "num_layers": 3, "patch_size": [1, 2, 2], "in_channels": 16}
    named = {"_class_name": "WanTransformer3DModel", "rope_max_seq_len": 64}
    write_json(folder / "transformer" / "config.json", named | sizes)
    scales = {"scale_factor_spatial": 8, "scale_factor_temporal": 4}
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKLWan"} | scales)
    write_json(folder / "text_encoder" / "config.json", {"architectures": ["UMT5EncoderModel"]})
    for name in ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        write_json(folder / name, {})
    write_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors", {"a": 3})
    write_safetensors(folder / "text_encoder" / "model.safetensors", {"a": 3})
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    write_json(folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": shards})
    for tensor, name in shards.items():
        write_safetensors(folder / "transformer" / name, {tensor: 5})
    return folder


def add_second(folder: Path, boundary_ratio: float | None = 0.875) -> None:
    """Make the model one of two transformers, like Wan 2.2 A14B."""
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    edit_json(folder / "model_index.json", transformer_2=TRANSFORMER, boundary_ratio=boundary_ratio)


def assert_refused(folder: Path, change: Callable[[Path], None], words: Sequence[str]) -> None:
    """A model that is accepted as it is written, and refused after the change, in a sentence that has these words."""
    write_bare_model(folder)
    read_facts(folder)
    change(folder)
    with pytest.raises(InvalidInput) as caught:
        read_facts(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and str(folder) in sentence
    for word in words:
        assert word in sentence, sentence
