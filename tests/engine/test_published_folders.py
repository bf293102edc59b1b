"""Folders of published models pass the checks: their configurations, and files with all tensors at published sizes, of
which the disk holds the headers alone."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModelMixin

from engine.components.parts import parts_of
from engine.components.tensors import check_component
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.folder import read_json
from engine.models.sizes import check_latents, check_widths
from engine.models.weights import check_weights
from tests.support.published_components import COMPONENTS, CONFIG_CLASSES, name_of

KINDS = ("Wan 2.1 FLF2V 14B 720P", "Wan 2.2 TI2V 5B", "HunyuanVideo", "HunyuanVideo I2V", "HunyuanVideo 1.5 I2V 480p")


def write_component(folder: Path, kind: Any, settings: dict[str, Any]) -> None:
    """The configuration as ``save_pretrained`` writes it, and a sparse file of bfloat16 weights."""
    folder.mkdir(parents=True)
    is_diffusers = issubclass(kind, ModelMixin)
    with torch.device("meta"):
        module = kind(**settings) if is_diffusers else kind(CONFIG_CLASSES[kind](**settings))
    if is_diffusers:
        module.save_config(folder)
    else:
        module.config.save_pretrained(folder)
    end, header = 0, {}
    tied = getattr(module, "all_tied_weights_keys", {})
    for name, tensor in module.state_dict().items():
        if name not in tied:
            entry = {"dtype": "BF16", "shape": list(tensor.shape)}
            header[name] = entry | {"data_offsets": [end, end := end + 2 * tensor.numel()]}
    text = json.dumps(header).encode()
    file = folder / f"{'diffusion_pytorch_model' if is_diffusers else 'model'}.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(file, 8 + len(text) + end)


@pytest.mark.slow
@pytest.mark.parametrize("model", [model for model in CATALOG if model.name in KINDS], ids=name_of)
def test_a_published_folder(model: PublishedModel, tmp_path: Path) -> None:
    parts = parts_of(model.facts.family)
    for component, (kind, settings) in COMPONENTS[model.name].items():
        write_component(tmp_path / component, kind, settings)
        check_weights(tmp_path, component)
        assert parts.kind(component) is kind
        check_component(kind, str(tmp_path), component)
    check_latents(tmp_path, read_json(tmp_path / "vae" / "config.json"), model.facts.latent_channels)
    check_widths(tmp_path, read_json(tmp_path / "transformer" / "config.json"), COMPONENTS[model.name])
