"""The transformers of HunyuanVideo at their published sizes.

Configurations as the checkpoints' transformer/config.json have them (hunyuanvideo-community/HunyuanVideo,
HunyuanVideo-I2V, HunyuanVideo-I2V-33ch, HunyuanVideo-1.5-Diffusers-480p_t2v and the others of 1.5).
"""

from typing import Any

HUNYUAN_VIDEO = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "num_layers": 20,
    "num_single_layers": 40,
    "num_refiner_layers": 2,
    "mlp_ratio": 4.0,
    "patch_size": 2,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "guidance_embeds": True,
    "text_embed_dim": 4096,
    "pooled_projection_dim": 768,
    "rope_theta": 256.0,
    "rope_axes_dim": [16, 56, 56],
}
HUNYUAN_VIDEO_15 = {
    "in_channels": 65,
    "out_channels": 32,
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 54,
    "num_refiner_layers": 2,
    "mlp_ratio": 4.0,
    "patch_size": 1,
    "patch_size_t": 1,
    "qk_norm": "rms_norm",
    "text_embed_dim": 3584,
    "text_embed_2_dim": 1472,
    "image_embed_dim": 1152,
    "rope_theta": 256.0,
    "rope_axes_dim": [16, 56, 56],
    "use_meanflow": False,
    "target_size": 640,
    "task_type": "t2v",
}
HUNYUAN_VIDEO_VARIANTS: dict[str, dict[str, Any]] = {
    "text-to-video": {},
    "token_replace": {"image_condition_type": "token_replace"},
    "latent_concat": {"image_condition_type": "latent_concat", "in_channels": 33, "guidance_embeds": False},
}
