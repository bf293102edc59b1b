"""What the layers of Wan and HunyuanVideo are called by their own code and by ComfyUI, written out by hand from the
published checkpoints, to check Lockstep's tables with."""

from collections.abc import Iterator
from dataclasses import dataclass

Parts = tuple[str, ...]

_WAN_BLOCK: dict[str, str] = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
_WAN = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_DOUBLE: dict[str, Parts] = {
    "img_mod.linear": ("norm1.linear",),
    "txt_mod.linear": ("norm1_context.linear",),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_attn_q_norm": ("attn.norm_q",),
    "img_attn_k_norm": ("attn.norm_k",),
    "txt_attn_q_norm": ("attn.norm_added_q",),
    "txt_attn_k_norm": ("attn.norm_added_k",),
    "img_mlp.fc1": ("ff.net.0.proj",),
    "img_mlp.fc2": ("ff.net.2",),
    "txt_mlp.fc1": ("ff_context.net.0.proj",),
    "txt_mlp.fc2": ("ff_context.net.2",),
}
_JOINED = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SEPARATE = {
    f"{stream}_attn_{part}": (name,)
    for stream, names in (("img", _JOINED["img_attn_qkv"]), ("txt", _JOINED["txt_attn_qkv"]))
    for part, name in zip("qkv", names, strict=True)
}
_SINGLE: dict[str, Parts] = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "q_norm": ("attn.norm_q",),
    "k_norm": ("attn.norm_k",),
    "modulation.linear": ("norm.linear",),
}
_REFINER: dict[str, Parts] = {
    "norm1": ("norm1",),
    "norm2": ("norm2",),
    "self_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "self_attn_proj": ("attn.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm_out.linear",),
}
_TEXT = {
    "img_in.proj": "x_embedder.proj",
    "txt_in.t_embedder.mlp.0": "context_embedder.time_text_embed.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": "context_embedder.time_text_embed.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_HUNYUAN = _TEXT | {
    "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
}
_HUNYUAN_15 = _TEXT | {
    "time_in.mlp.0": "time_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_embed.timestep_embedder.linear_2",
    "byt5_in.layernorm": "context_embedder_2.norm",
    "byt5_in.fc1": "context_embedder_2.linear_1",
    "byt5_in.fc2": "context_embedder_2.linear_2",
    "byt5_in.fc3": "context_embedder_2.linear_3",
    "vision_in.proj.0": "image_embedder.norm_in",
    "vision_in.proj.1": "image_embedder.linear_1",
    "vision_in.proj.3": "image_embedder.linear_2",
    "vision_in.proj.4": "image_embedder.norm_out",
    "cond_type_embedding": "cond_type_embed",
}
_COMFY = (  # pairs of endings of the original's and ComfyUI's names
    ("img_attn_q_norm", "img_attn.norm.query_norm.scale"),
    ("img_attn_k_norm", "img_attn.norm.key_norm.scale"),
    ("txt_attn_q_norm", "txt_attn.norm.query_norm.scale"),
    ("txt_attn_k_norm", "txt_attn.norm.key_norm.scale"),
    (".q_norm", ".norm.query_norm.scale"),
    (".k_norm", ".norm.key_norm.scale"),
    ("img_attn_qkv", "img_attn.qkv"),
    ("txt_attn_qkv", "txt_attn.qkv"),
    ("self_attn_qkv", "self_attn.qkv"),
    ("attn_proj", "attn.proj"),
    ("_mod.linear", "_mod.lin"),
    ("modulation.linear", "modulation.lin"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.2"),
    ("time_in.mlp.0", "time_in.in_layer"),
    ("time_in.mlp.2", "time_in.out_layer"),
    ("guidance_in.mlp.0", "guidance_in.in_layer"),
    ("guidance_in.mlp.2", "guidance_in.out_layer"),
    ("t_embedder.mlp.0", "t_embedder.in_layer"),
    ("t_embedder.mlp.2", "t_embedder.out_layer"),
    ("c_embedder.linear_1", "c_embedder.in_layer"),
    ("c_embedder.linear_2", "c_embedder.out_layer"),
)


@dataclass(frozen=True)
class NamedLayer:
    """A layer of the original.

    parts: the layers of diffusers that its rows belong to, in order.
    swapped: whether the halves of its rows are in the other order in diffusers.
    """

    original: str
    parts: Parts

    @property
    def swapped(self) -> bool:
        return self.original == "final_layer.adaLN_modulation.1"

    @property
    def comfy(self) -> str:
        """The name in ComfyUI's HunyuanVideo."""
        for ending, theirs in _COMFY:
            if self.original.endswith(ending):
                return self.original.removesuffix(ending) + theirs
        return self.original


def named_layers(family: str, blocks: int) -> Iterator[NamedLayer]:
    """All layers of a model with that many blocks of each kind; some models have not all of them.

    Args:
        family: wan, hunyuan or hunyuan15.
    """
    if family == "wan":
        for name, ours in _WAN.items():
            yield NamedLayer(name, (ours,))
        for block in range(blocks):
            for name, ours in _WAN_BLOCK.items():
                yield NamedLayer(f"blocks.{block}.{name}", (f"blocks.{block}.{ours}",))
        return
    for name, ours in (_HUNYUAN if family == "hunyuan" else _HUNYUAN_15).items():
        yield NamedLayer(name, (ours,))
    kinds = [("txt_in.individual_token_refiner.blocks", "context_embedder.token_refiner.refiner_blocks", _REFINER)]
    kinds += [("double_blocks", "transformer_blocks", _DOUBLE | _JOINED)]
    if family == "hunyuan":
        kinds += [("single_blocks", "single_transformer_blocks", _SINGLE)]
    else:
        kinds += [("double_blocks", "transformer_blocks", _SEPARATE)]
    for theirs, ours, names in kinds:
        for block in range(blocks):
            for name, parts in names.items():
                yield NamedLayer(f"{theirs}.{block}.{name}", tuple(f"{ours}.{block}.{part}" for part in parts))
