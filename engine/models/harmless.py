"""Tensors that may lie in a component's files although the module that is loaded from them does not have them."""

from __future__ import annotations

from collections.abc import Mapping

_LANGUAGE_HEAD = r"(^|\.)lm_head\.weight$"
"""Of the same model with a head that predicts words; only hidden states are used here."""
_IMAGES_BESIDE_TEXT = r"^(model\.)?visual\."
"""Of Qwen2.5-VL as it is published: the half that sees images. Prompts are text."""
_TEXT_BESIDE_IMAGES = r"^(text_model|text_projection|visual_projection)\.|^(logit_scale|logit_bias)$"
"""Of CLIP or SigLIP as they are published: the half that reads text, and what compares the two."""
_IMAGES_BESIDE_CLIP_TEXT = r"^(vision_model|text_projection|visual_projection)\.|^logit_scale$"
"""The same for those of which the text half is used."""
_DECODER = r"^decoder\."
"""Of T5 as it is published, which writes text; only its encoder is used."""

HARMLESS: Mapping[str, tuple[str, ...]] = {
    "UMT5EncoderModel": (_DECODER, _LANGUAGE_HEAD),
    "T5EncoderModel": (_DECODER, _LANGUAGE_HEAD),
    "LlamaModel": (_LANGUAGE_HEAD,),
    "Qwen2_5_VLTextModel": (_LANGUAGE_HEAD, _IMAGES_BESIDE_TEXT),
    "CLIPVisionModel": (_TEXT_BESIDE_IMAGES,),
    "SiglipVisionModel": (_TEXT_BESIDE_IMAGES,),
    "CLIPTextModel": (_IMAGES_BESIDE_CLIP_TEXT,),
}
"""Regular expressions by the class that is loaded. What the libraries know themselves is not repeated: tied tables, and
buffers of positions, which older versions saved (transformers); Wan's ``norm_added_q`` (diffusers)."""
