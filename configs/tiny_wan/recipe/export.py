"""Writes the parts as one pipeline folder that `WanPipeline.from_pretrained` reads."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from engine.models.sums import SUMS, write_sums

FLOW_SHIFT = 3.0
PARTS = ("model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae", SUMS)


def build_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=FLOW_SHIFT,
        num_train_timesteps=1000,
    )


def make_readable(path: Path) -> None:
    """Lets everybody read the file, where the mount has permissions."""
    with suppress(OSError):
        path.chmod(0o644)


def halve_storage(folder: Path) -> None:
    """Rewrites the folder's safetensors in fp16; loaders fill float32 modules from it."""
    for path in folder.glob("*.safetensors"):
        tensors = {name: tensor.half().contiguous() for name, tensor in load_file(path).items()}
        if any(not tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"{path} holds weights beyond the range of fp16")
        save_file(tensors, path, metadata={"format": "pt"})
        make_readable(path)


def name_tokenizer_class(folder: Path) -> None:
    """Names the tokenizer's class as every release of transformers knows it, not as the newest alone does."""
    for path in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        path.write_text(path.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))


def drop_keys(path: Path, keys: tuple[str, ...]) -> None:
    """Removes what only describes the machine that wrote the file."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in keys}, indent=2) + "\n")


@torch.no_grad()
def export_pipeline(
    folder: Path,
    vae: AutoencoderKLWan,
    transformer: WanTransformer3DModel,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Replaces the pipeline's parts in `folder`; each part appears whole or not at all."""
    staging = folder.parent / f"{folder.name}.staging"
    shutil.rmtree(staging, ignore_errors=True)
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=build_scheduler(),
        expand_timesteps=False,
        boundary_ratio=None,
    ).save_pretrained(staging)
    name_tokenizer_class(staging)
    make_readable(staging / "text_encoder" / "model.safetensors")
    halve_storage(staging / "transformer")
    halve_storage(staging / "vae")
    for path in staging.rglob("*config.json"):
        drop_keys(path, ("_name_or_path", "name_or_path"))
    drop_keys(staging / "model_index.json", ("_name_or_path",))
    write_sums(staging, list(staging.rglob("*.safetensors")))
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        old = folder / f".{name}.old"
        if (folder / name).exists():
            (folder / name).rename(old)
        (staging / name).rename(folder / name)
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    shutil.rmtree(staging)
