"""Llama 3's tokenizer is read as its file says, under the class name that the published folders give it."""

from pathlib import Path

from tokenizers import Tokenizer

from engine.components.parts import parts_of
from engine.models.facts import read_facts
from parallel.ranks import Ranks
from tests.conftest import tiny_config
from tests.engine.hunyuan_checkpoint import name_classes, write_hunyuan_checkpoint

TEXT = "a red circle, moving left.\n\n1. the navy background"


def test_the_file_decides(tmp_path: Path) -> None:
    folder = write_hunyuan_checkpoint(tmp_path / "model")
    name_classes(folder, tokenizer="LlamaTokenizerFast")
    config = tiny_config(f"model.path={folder}")
    encoder = parts_of(read_facts(folder).family).prompt_encoder(config, Ranks(), False)
    tokenizer = encoder._pipeline.tokenizer  # type: ignore[attr-defined]
    expected = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")).encode(TEXT)
    assert tokenizer(TEXT)["input_ids"] == expected.ids
    assert len(set(expected.ids)) > 8, "words are told apart"
    assert tokenizer.padding_side == "right"
