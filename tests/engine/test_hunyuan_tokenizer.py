"""Llama 3's tokenizer is read as its file says, under the class name that the published folders give it."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine.components.parts import parts_of
from engine.models.facts import read_facts
from parallel.ranks import Ranks
from tests.support.hunyuan_checkpoint import name_classes, write_hunyuan_checkpoint
from tests.support.hunyuan_image_checkpoint import write_hunyuan_image_checkpoint
from tests.support.small_model import tiny_config

TEXT = "a red circle, moving left.\n\n1. the navy background"


@pytest.mark.parametrize("kind", ["text", "token_replace"])
def test_the_file_decides(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if kind == "text":
        name_classes(write_hunyuan_checkpoint(folder), tokenizer="LlamaTokenizerFast")
    else:
        write_hunyuan_image_checkpoint(folder, kind)
    config = tiny_config(f"model.path={folder}")
    encoder = parts_of(read_facts(folder).family).prompt_encoder(config, Ranks(), False)
    tokenizer = encoder._pipeline.tokenizer  # type: ignore[attr-defined]
    expected = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")).encode(TEXT)
    assert tokenizer(TEXT)["input_ids"] == expected.ids
    assert len(set(expected.ids)) > 8, "words are told apart"
    assert tokenizer.padding_side == "right"
