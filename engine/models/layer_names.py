"""The names that layers of a transformer have beside diffusers' own: in the published code of the model, and in
ComfyUI. Adapters are saved under any of them.

Sources: Wan's and HunyuanVideo's repositories, diffusers' conversion scripts, ComfyUI's ``comfy/supported_models.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Renames = Sequence[tuple[str, str]]
"""Regular expressions and their replacements, applied one after the other to the name of a diffusers layer."""


@dataclass(frozen=True)
class LayerNames:
    """How a family's layers are named elsewhere. All patterns are matched with the names that diffusers has.

    renames: one list for each other way of naming.
    joined: (pattern, replacement, parts) of layers that are one layer elsewhere, whose rows are those of its parts in
        this order; the pattern's last group is the part.
    swapped: layers whose rows have their halves in the other order under the other names: shift and scale.
    optional: (pattern, words) of layers that only some models of the family have, matched with the name with
        underscores for dots; adapters for the others hold changes of them.
    input_layer: the layer whose input channels differ between models of the family.
    """

    renames: Sequence[Renames] = ()
    joined: Sequence[tuple[str, str, Sequence[str]]] = ()
    swapped: Sequence[str] = ()
    optional: Sequence[tuple[str, str]] = ()
    input_layer: str = ""


_TIME_AND_TEXT: Renames = (
    (r"^condition_embedder\.(time|text)_embedder\.linear_1$", r"\1_embedding.0"),
    (r"^condition_embedder\.(time|text)_embedder\.linear_2$", r"\1_embedding.2"),
)

WAN = LayerNames(
    renames=(
        (
            *_TIME_AND_TEXT,
            (r"^condition_embedder\.time_proj$", "time_projection.1"),
            (r"^condition_embedder\.image_embedder\.norm1$", "img_emb.proj.0"),
            (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$", "img_emb.proj.1"),
            (r"^condition_embedder\.image_embedder\.ff\.net\.2$", "img_emb.proj.3"),
            (r"^condition_embedder\.image_embedder\.norm2$", "img_emb.proj.4"),
            (r"^condition_embedder\.image_embedder\.pos_embed$", "img_emb.emb_pos"),
            (r"^scale_shift_table$", "head.modulation"),
            (r"^proj_out$", "head.head"),
            (r"\.scale_shift_table$", ".modulation"),
            (r"\.norm2$", ".norm3"),
            (r"\.attn1\.", ".self_attn."),
            (r"\.attn2\.", ".cross_attn."),
            (r"\.to_([qkv])$", r".\1"),
            (r"\.to_out\.0$", ".o"),
            (r"\.add_([kv])_proj$", r".\1_img"),
            (r"\.norm_added_k$", ".norm_k_img"),
            (r"\.ffn\.net\.0\.proj$", ".ffn.0"),
            (r"\.ffn\.net\.2$", ".ffn.2"),
        ),
    ),
    joined=(
        (r"^(.+\.attn1)\.to_([qkv])$", r"\1.to_qkv", ("q", "k", "v")),
        (r"^(.+\.attn2)\.to_([kv])$", r"\1.to_kv", ("k", "v")),
        (r"^(.+\.attn2)\.add_([kv])_proj$", r"\1.to_added_kv", ("k", "v")),
    ),
    optional=(
        (
            r"blocks_\d+_(cross_attn_([kv]_img|norm_k_img)|attn2_(add_[kv]_proj|norm_added_k|to_added_kv))",
            "the attention to images",
        ),
        (r"(img_emb|condition_embedder_image_embedder)_.+", "the image embedder"),
    ),
    input_layer="patch_embedding",
)

_REFINER: Renames = (  # of the text; the same in HunyuanVideo 1.0 and 1.5
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1$", "txt_in.t_embedder.mlp.0"),
    (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2$", "txt_in.t_embedder.mlp.2"),
    (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
    (r"^context_embedder\.proj_in$", "txt_in.input_embedder"),
    (r"^context_embedder\.token_refiner\.refiner_blocks\.", "txt_in.individual_token_refiner.blocks."),
    (r"^(txt_in\..+)\.attn\.to_out\.0$", r"\1.self_attn_proj"),
    (r"^(txt_in\..+)\.ff\.net\.0\.proj$", r"\1.mlp.fc1"),
    (r"^(txt_in\..+)\.ff\.net\.2$", r"\1.mlp.fc2"),
    (r"^(txt_in\..+)\.norm_out\.linear$", r"\1.adaLN_modulation.1"),
)
_DOUBLE_BLOCKS: Renames = (
    (r"^x_embedder\.", "img_in."),
    (r"^norm_out\.linear$", "final_layer.adaLN_modulation.1"),
    (r"^proj_out$", "final_layer.linear"),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"^(double_blocks\..+)\.norm1\.linear$", r"\1.img_mod.linear"),
    (r"^(double_blocks\..+)\.norm1_context\.linear$", r"\1.txt_mod.linear"),
    (r"^(double_blocks\..+)\.attn\.norm_([qk])$", r"\1.img_attn_\2_norm"),
    (r"^(double_blocks\..+)\.attn\.norm_added_([qk])$", r"\1.txt_attn_\2_norm"),
    (r"^(double_blocks\..+)\.attn\.to_([qkv])$", r"\1.img_attn_\2"),
    (r"^(double_blocks\..+)\.attn\.add_([qkv])_proj$", r"\1.txt_attn_\2"),
    (r"^(double_blocks\..+)\.attn\.to_out\.0$", r"\1.img_attn_proj"),
    (r"^(double_blocks\..+)\.attn\.to_add_out$", r"\1.txt_attn_proj"),
    (r"^(double_blocks\..+)\.ff\.net\.0\.proj$", r"\1.img_mlp.fc1"),
    (r"^(double_blocks\..+)\.ff\.net\.2$", r"\1.img_mlp.fc2"),
    (r"^(double_blocks\..+)\.ff_context\.net\.0\.proj$", r"\1.txt_mlp.fc1"),
    (r"^(double_blocks\..+)\.ff_context\.net\.2$", r"\1.txt_mlp.fc2"),
)
_SINGLE_BLOCKS: Renames = (
    (r"^time_text_embed\.timestep_embedder\.linear_1$", "time_in.mlp.0"),
    (r"^time_text_embed\.timestep_embedder\.linear_2$", "time_in.mlp.2"),
    (r"^time_text_embed\.guidance_embedder\.linear_1$", "guidance_in.mlp.0"),
    (r"^time_text_embed\.guidance_embedder\.linear_2$", "guidance_in.mlp.2"),
    (r"^time_text_embed\.text_embedder\.linear_1$", "vector_in.in_layer"),
    (r"^time_text_embed\.text_embedder\.linear_2$", "vector_in.out_layer"),
    (r"^single_transformer_blocks\.", "single_blocks."),
    (r"^(single_blocks\..+)\.norm\.linear$", r"\1.modulation.linear"),
    (r"^(single_blocks\..+)\.proj_out$", r"\1.linear2"),
    (r"^(single_blocks\..+)\.attn\.norm_([qk])$", r"\1.\2_norm"),
)
_EMBEDDERS_15: Renames = (
    (r"^time_embed\.timestep_embedder\.linear_1$", "time_in.mlp.0"),
    (r"^time_embed\.timestep_embedder\.linear_2$", "time_in.mlp.2"),
    (r"^context_embedder_2\.norm$", "byt5_in.layernorm"),
    (r"^context_embedder_2\.linear_", "byt5_in.fc"),
    (r"^image_embedder\.norm_in$", "vision_in.proj.0"),
    (r"^image_embedder\.linear_1$", "vision_in.proj.1"),
    (r"^image_embedder\.linear_2$", "vision_in.proj.3"),
    (r"^image_embedder\.norm_out$", "vision_in.proj.4"),
    (r"^cond_type_embed$", "cond_type_embedding"),
)
_COMFY: Renames = (  # of the original names
    (r"(_mod|\.modulation)\.linear$", r"\1.lin"),
    (r"mlp\.fc1$", "mlp.0"),
    (r"mlp\.fc2$", "mlp.2"),
    (r"_attn_q_norm$", "_attn.norm.query_norm.scale"),
    (r"_attn_k_norm$", "_attn.norm.key_norm.scale"),
    (r"\.q_norm$", ".norm.query_norm.scale"),
    (r"\.k_norm$", ".norm.key_norm.scale"),
    (r"(_in|t_embedder)\.mlp\.0$", r"\1.in_layer"),
    (r"(_in|t_embedder)\.mlp\.2$", r"\1.out_layer"),
    (r"c_embedder\.linear_1$", "c_embedder.in_layer"),
    (r"c_embedder\.linear_2$", "c_embedder.out_layer"),
)
_JOINED = (
    (
        r"^context_embedder\.token_refiner\.refiner_blocks\.(\d+)\.attn\.to_([qkv])$",
        r"txt_in.individual_token_refiner.blocks.\1.self_attn_qkv",
        ("q", "k", "v"),
    ),
    (r"^transformer_blocks\.(\d+)\.attn\.to_([qkv])$", r"double_blocks.\1.img_attn_qkv", ("q", "k", "v")),
    (r"^transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj$", r"double_blocks.\1.txt_attn_qkv", ("q", "k", "v")),
    (
        r"^single_transformer_blocks\.(\d+)\.(?:attn\.to_|proj_)(q|k|v|mlp)$",
        r"single_blocks.\1.linear1",
        ("q", "k", "v", "mlp"),
    ),
    (r"^(.+\.attn)\.to_([qkv])$", r"\1.to_qkv", ("q", "k", "v")),
    (r"^(.+\.attn)\.add_([qkv])_proj$", r"\1.to_added_qkv", ("q", "k", "v")),
)
_ORIGINAL = (*_REFINER, *_DOUBLE_BLOCKS, *_SINGLE_BLOCKS)
_ORIGINAL_15 = (*_REFINER, *_DOUBLE_BLOCKS, *_EMBEDDERS_15)

HUNYUAN_VIDEO = LayerNames(
    renames=(_ORIGINAL, (*_ORIGINAL, *_COMFY)),
    joined=_JOINED,
    swapped=("norm_out.linear",),
    optional=((r"(guidance_in|time_text_embed_guidance_embedder)_.+", "the guidance embedder"),),
    input_layer="x_embedder.proj",
)
HUNYUAN_VIDEO_15 = LayerNames(
    renames=(_ORIGINAL_15, (*_ORIGINAL_15, *_COMFY)),
    joined=_JOINED,
    swapped=("norm_out.linear",),
    input_layer="x_embedder.proj",
)
