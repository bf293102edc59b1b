"""The words: a byte-level tokenizer trained on the captions and a two-layer UMT5 encoder."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from configs.tiny_wan.recipe.shapes import all_scenes

VOCAB_SIZE = 384
TEXT_DIM = 64
PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
MAX_TOKENS = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Every caption word is one token; any other text falls back to pieces and bytes."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, EOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((scene.caption for scene in all_scenes()), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, core.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=MAX_TOKENS,
        padding_side="right",
    )


def build_text_encoder() -> UMT5EncoderModel:
    """A new encoder, small enough to learn along with the transformer."""
    config = UMT5Config(
        vocab_size=VOCAB_SIZE,
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config)


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both int64 [B, L], padded to the longest caption."""
    batch = tokenizer(list(captions), padding="longest", return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def encode_text(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings [B, L, TEXT_DIM], zero where the mask is, as the pipeline hands them to the transformer."""
    hidden = encoder(ids, attention_mask=mask).last_hidden_state
    return torch.where(mask[..., None].bool(), hidden, torch.zeros_like(hidden))
