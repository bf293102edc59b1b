"""The private parts of diffusers and transformers that Lockstep uses, in one place: new versions are checked here.

``parallel`` and ``engine`` both take them from here. Pipelines are imported inside the functions that use them, since
each takes time and a rank runs one model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

from parallel.kernels import KernelName

BYT5_TOKENS = 256
"""Tokens that HunyuanVideo 1.5 takes from ByT5 at most: the default of :func:`encode_with_byt5`'s pipeline."""

CONFIGURATION_ATTRIBUTE = "_internal_dict"
"""The attribute in which a diffusers object keeps its configuration."""


def ignored_keys(model_or_class: Any) -> Sequence[str]:
    """Regular expressions for the names of tensors that may lie in a model's files without being wanted."""
    return model_or_class._keys_to_ignore_on_load_unexpected or ()


def kept_in_float32(model_class: Any) -> Sequence[str]:
    """Parts of parameter names; parameters with such a part stay in float32, whatever dtype a model is loaded in."""
    return model_class._keep_in_fp32_modules or ()


def causal_padding(convolution: Any) -> tuple[int, int, int, int, int, int]:
    """What a ``WanCausalConv3d`` pads by itself: left, right, top, bottom, frames before, frames after."""
    padding: tuple[int, int, int, int, int, int] = convolution._padding
    return padding


_ATTENTION_BACKENDS: Mapping[KernelName, str] = {
    "sdpa": "native",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash3": "_flash_3",
    "sage": "sage",
    "efficient": "_native_efficient",
}


def set_attention_kernel(transformer: nn.Module, kernel: KernelName, one_of_torch: bool = False) -> None:
    """Let the attention of every block run through that kernel.

    Args:
        one_of_torch: torch takes FlashAttention-2 as it has it, where it would choose among its kernels by their sizes;
            for bfloat16 on a card.

    ``set_attention_backend`` of a diffusers model does the same, and changes the default of the whole process with it:
    the attention of autoencoders, and of text with a mask, which most kernels cannot take.
    """
    backend = AttentionBackendName("_native_flash" if one_of_torch else _ATTENTION_BACKENDS[kernel])
    for module in transformer.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_attention_backend"):
            processor._attention_backend = backend


def copy_attention_backend(source: Any, target: Any) -> None:
    """Let an attention processor use the kernel that was chosen for another one."""
    target._attention_backend = source._attention_backend


def local_kernel(kernel: KernelName) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The attention that blocks run after :func:`set_attention_kernel`: query, key and value [batch, heads, tokens,
    head_dim] → [batch, heads, queries, head_dim]."""
    backend = AttentionBackendName(_ATTENTION_BACKENDS[kernel])

    def attend(*inputs: Tensor) -> Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in inputs)
        out: Tensor = dispatch_attention_fn(query, key, value, backend=backend)
        return out.transpose(1, 2)

    return attend


def encode_with_qwen(
    encoder: Any, tokenizer: Any, text: str, device: torch.device, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """One prompt as HunyuanVideo 1.5 takes it from Qwen2.5-VL.

    Returns:
        The embeddings [1, tokens, 3584] in the encoder's dtype, and the mask [1, tokens] that marks text with 1.
    """
    from diffusers import HunyuanVideo15Pipeline

    embeds, mask = HunyuanVideo15Pipeline._get_mllm_prompt_embeds(
        encoder, tokenizer, text, device, tokenizer_max_length=max_tokens
    )
    return embeds, mask


def qwen_tokens(tokenizer: Any, text: str) -> list[int]:
    """All tokens of a prompt that HunyuanVideo 1.5 would take from Qwen2.5-VL, if there were no limit: those of the
    prompt, and of the chat after it."""
    from diffusers import HunyuanVideo15Pipeline
    from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import format_text_input

    defaults = inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds).parameters
    chat = format_text_input([text], defaults["system_message"].default)[0]
    ids: list[int] = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, truncation=False
    )["input_ids"]
    return ids[defaults["crop_start"].default :]


def encode_with_byt5(encoder: Any, tokenizer: Any, text: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The words in quotation marks of one prompt as HunyuanVideo 1.5 takes them from ByT5.

    Returns:
        The embeddings [1, tokens, 1472] in the encoder's dtype, and the mask [1, tokens] that marks text with 1.
    """
    from diffusers import HunyuanVideo15Pipeline

    embeds, mask = HunyuanVideo15Pipeline._get_byt5_prompt_embeds(tokenizer, encoder, text, device)
    return embeds, mask


def encode_with_siglip(encoder: Any, processor: Any, image: Any, device: torch.device) -> Tensor:
    """An image as HunyuanVideo 1.5 takes it from SigLIP: [1, image tokens, 1152] in the encoder's dtype."""
    from diffusers import HunyuanVideo15ImageToVideoPipeline

    embeds: Tensor = HunyuanVideo15ImageToVideoPipeline._get_image_embeds(encoder, processor, image, device)
    return embeds
