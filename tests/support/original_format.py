"""The names that Wan's and HunyuanVideo's own code gives to the tensors of the diffusers modules: what diffusers'
single-file loader undoes."""

import re

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_WAN = {
    r"^condition_embedder\.time_embedder\.linear_1": "time_embedding.0",
    r"^condition_embedder\.time_embedder\.linear_2": "time_embedding.2",
    r"^condition_embedder\.text_embedder\.linear_1": "text_embedding.0",
    r"^condition_embedder\.text_embedder\.linear_2": "text_embedding.2",
    r"^condition_embedder\.time_proj": "time_projection.1",
    r"^scale_shift_table": "head.modulation",
    r"^proj_out": "head.head",
    r"\.scale_shift_table": ".modulation",
    r"\.norm2\.": ".norm3.",
    r"\.attn1\.": ".self_attn.",
    r"\.attn2\.": ".cross_attn.",
    r"\.to_out\.0\.": ".o.",
    r"\.to_([qkv])\.": r".\1.",
    r"\.ffn\.net\.0\.proj": ".ffn.0",
    r"\.ffn\.net\.2": ".ffn.2",
}
_WAN_VAE = {
    r"^quant_conv": "conv1",
    r"^post_quant_conv": "conv2",
    r"\.conv_in\.": ".conv1.",
    r"\.norm_out\.": ".head.0.",
    r"\.conv_out\.": ".head.2.",
    r"(resnets\.\d+|down_blocks\.\d+)\.norm1": r"\1.residual.0",
    r"(resnets\.\d+|down_blocks\.\d+)\.conv1": r"\1.residual.2",
    r"(resnets\.\d+|down_blocks\.\d+)\.norm2": r"\1.residual.3",
    r"(resnets\.\d+|down_blocks\.\d+)\.conv2": r"\1.residual.6",
    r"\.conv_shortcut": ".shortcut",
    r"mid_block\.resnets\.0": "middle.0",
    r"mid_block\.attentions\.0": "middle.1",
    r"mid_block\.resnets\.1": "middle.2",
    r"down_blocks": "downsamples",
}
_HUNYUAN_TEXT = {
    r"^context_embedder": "txt_in",
    r"proj_in": "input_embedder",
    r"time_text_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
    r"time_text_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
    r"time_text_embed\.text_embedder": "c_embedder",
    r"token_refiner\.refiner_blocks": "individual_token_refiner.blocks",
    r"attn\.to_out\.0": "self_attn_proj",
    r"ff\.net\.0\.proj": "mlp.fc1",
    r"ff\.net\.2": "mlp.fc2",
    r"norm_out\.linear": "adaLN_modulation.1",
}
_HUNYUAN = {
    r"^x_embedder": "img_in",
    r"^time_text_embed\.timestep_embedder\.linear_1": "time_in.mlp.0",
    r"^time_text_embed\.timestep_embedder\.linear_2": "time_in.mlp.2",
    r"^time_text_embed\.guidance_embedder\.linear_1": "guidance_in.mlp.0",
    r"^time_text_embed\.guidance_embedder\.linear_2": "guidance_in.mlp.2",
    r"^time_text_embed\.text_embedder\.linear_1": "vector_in.in_layer",
    r"^time_text_embed\.text_embedder\.linear_2": "vector_in.out_layer",
    r"^norm_out\.linear": "final_layer.adaLN_modulation.1",
    r"^proj_out": "final_layer.linear",
    r"^(single_transformer_blocks\.\d+)\.proj_out": r"\1.linear2",
    r"^(single_transformer_blocks\.\d+)\.norm\.linear": r"\1.modulation.linear",
    r"^(single_transformer_blocks\.\d+)\.attn\.norm_([qk])": r"\1.\2_norm",
    r"^single_transformer_blocks": "single_blocks",
    r"^transformer_blocks": "double_blocks",
    r"attn\.norm_([qk])": r"img_attn_\1_norm",
    r"attn\.norm_added_([qk])": r"txt_attn_\1_norm",
    r"attn\.to_out\.0": "img_attn_proj",
    r"attn\.to_add_out": "txt_attn_proj",
    r"norm1\.linear": "img_mod.linear",
    r"norm1_context\.linear": "txt_mod.linear",
    r"ff_context\.net\.0\.proj": "txt_mlp.fc1",
    r"ff_context\.net\.2": "txt_mlp.fc2",
    r"ff\.net\.0\.proj": "img_mlp.fc1",
    r"ff\.net\.2": "img_mlp.fc2",
}
_JOINED = {  # what the original has as one tensor, the first dimension of which diffusers splits
    r"^(context_embedder\..*)attn\.to_([qkv])\.": r"\1self_attn_qkv.",
    r"^(transformer_blocks\.\d+\.)attn\.to_([qkv])\.": r"\1img_attn_qkv.",
    r"^(transformer_blocks\.\d+\.)attn\.add_([qkv])_proj\.": r"\1txt_attn_qkv.",
    r"^(single_transformer_blocks\.\d+\.)(?:attn\.to_|proj_ml)([qkvp])\.": r"\1linear1.",
}


def original_wan(tensors: Tensors) -> Tensors:
    """Of ``WanTransformer3DModel``, text-to-video."""
    return {_renamed(name, _WAN): tensor.clone() for name, tensor in tensors.items()}


def original_wan_vae(tensors: Tensors) -> Tensors:
    """Of ``AutoencoderKLWan``, version 2.1, with two residual blocks a level."""

    def renamed(name: str) -> str:
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{4 * int(m[1]) + int(m[2])}.resnets.0", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{4 * int(m[1]) + 3}", name)
        return re.sub(r"up\.(\d+)(\.resnets\.0)?", r"upsamples.\1", _renamed(name, _WAN_VAE))

    return {renamed(name): tensor.clone() for name, tensor in tensors.items()}


def original_hunyuan(tensors: Tensors) -> Tensors:
    """Of ``HunyuanVideoTransformer3DModel``."""
    original: Tensors = {}
    joined: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _JOINED.items():
            if part := re.match(pattern, name):
                joined.setdefault(re.sub(pattern, replacement, name), {})[part[2]] = tensor
                break
        else:
            if name.startswith("norm_out.linear"):
                tensor = torch.cat([*tensor.chunk(2)][::-1])  # the original has the shift first
            original[_hunyuan_name(name)] = tensor.clone()
    return original | {
        _hunyuan_name(name): torch.cat([parts[part] for part in "qkvp" if part in parts])
        for name, parts in joined.items()
    }


def _hunyuan_name(name: str) -> str:
    return _renamed(name, _HUNYUAN_TEXT if name.startswith("context_embedder") else _HUNYUAN)


def _renamed(name: str, renames: dict[str, str]) -> str:
    for pattern, replacement in renames.items():
        name = re.sub(pattern, replacement, name)
    return name
