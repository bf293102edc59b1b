"""Whether a tokenizer makes tokens that its text encoder has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.models.folder import read_json


def check_vocabulary(folder: Path, tokenizer: str, encoder: str) -> None:
    """Refuse a tokenizer with more tokens than the table of its text encoder has rows: it belongs to another model.

    A table may have more rows than there are tokens. Vocabularies that are not in ``tokenizer.json`` or ``vocab.json``
    are not looked at, nor are tables whose size the encoder's configuration leaves to its class.

    Raises:
        InvalidInput: one sentence that names both folders.
    """
    rows = _rows(read_json(folder / encoder / "config.json"))
    if rows is None:
        return
    largest = max(_numbers(folder / tokenizer), default=-1)
    if largest >= rows:
        raise InvalidInput(
            f"The tokenizer in {folder / tokenizer} numbers its tokens up to {largest}, but the text encoder in "
            f"{folder / encoder} has {rows} of them, so the two are of different models: download the model again."
        )


def _rows(settings: Mapping[str, Any]) -> int | None:
    """``vocab_size`` of a text encoder, or of the half of another model that reads text."""
    inner = settings.get("text_config")
    for part in (inner, settings):
        if isinstance(part, Mapping) and isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    return None


def _numbers(folder: Path) -> Iterator[int]:
    """The number of each token that a text can become."""
    file = folder / "tokenizer.json"
    if file.is_file():
        content = read_json(file)
        model = content.get("model")
        yield from _of_vocabulary(model.get("vocab") if isinstance(model, Mapping) else None)
        added = content.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, Mapping) and isinstance(token.get("id"), int):
                yield token["id"]
    elif (folder / "vocab.json").is_file():
        yield from _of_vocabulary(read_json(folder / "vocab.json"))


def _of_vocabulary(vocabulary: Any) -> Iterator[int]:
    """A table of numbers by token (BPE, WordPiece), or a list of tokens with their scores (Unigram)."""
    if isinstance(vocabulary, Mapping):
        yield from (number for number in vocabulary.values() if isinstance(number, int))
    elif isinstance(vocabulary, list):
        yield len(vocabulary) - 1
