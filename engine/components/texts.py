"""What of a prompt does not reach the model: said in a line each, counted by the tokenizers that read it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.request import GenerationRequest

_SHOWN = 40
"""Letters of a text that a line shows."""


def texts_of(request: GenerationRequest, num_branches: int) -> Iterator[tuple[str, str]]:
    """Each text of a request that an encoder reads, with the option that gave it.

    Args:
        num_branches: guidance branches; with one there is no negative prompt.
    """
    yield from (("--prompt", prompt) for prompt in request.prompts)
    if num_branches == 2 and request.negative_prompt.strip():
        yield "--negative-prompt", request.negative_prompt


def excerpt(text: str) -> str:
    """The first letters of a text, quoted, on one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN].rstrip()}…")


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """All tokens of a text, special ones included, without a warning that there are many."""
    ids: list[int] = tokenizer(text, truncation=False, padding=False, verbose=False)["input_ids"]
    return ids


def cut_note(
    name: str, text: str, reader: str, limit: int, ids: Sequence[int], decode: Callable[..., str], end: int = 0
) -> str | None:
    """The line on a text of which only the first tokens are read; None where all of it is.

    Args:
        name: the option that gave it.
        reader: the text encoder, and the key that sets its limit if there is one.
        limit: tokens that it reads.
        ids: all tokens that it would read, [tokens].
        decode: of the tokenizer.
        end: tokens at the end that are kept whatever is cut before them.
    """
    if len(ids) <= limit:
        return None
    left_out = decode(ids[limit - end : len(ids) - end], skip_special_tokens=True).strip()
    rest = f", without {excerpt(left_out)}" if left_out else ""
    return f"{name} {excerpt(text)} is cut: of its {len(ids)} tokens {reader} reads {limit}{rest}"


def unread_note(name: str, text: str, tokenizer: Any, read: str) -> str | None:
    """The line on a text of which the tokenizer knows nothing, or not every word; None where it knows all.

    Args:
        read: the text as the tokenizer gets it, cleaned.
        tokenizer: a fast one, whose token for what it does not know has no other meaning.
    """
    encoded = tokenizer(read, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = encoded["input_ids"]
    if not ids:
        return f"{name} {text[:_SHOWN]!r} has no effect: nothing is left of it once it is cleaned"
    places = zip(ids, encoded["offset_mapping"], strict=True)
    # a tokenizer may not know the mark that it puts before a word, which stands for no letter
    unknown = [read[start:end] for id, (start, end) in places if id == tokenizer.unk_token_id]
    unknown = [word for word in unknown if word.strip()]
    if not unknown:
        return None
    named = ", ".join(excerpt(word) for word in list(dict.fromkeys(unknown))[:5])
    if len(unknown) == len(ids):
        return f"{name} {excerpt(text)} has no effect: the model knows nothing of it ({named})"
    return f"{name} {excerpt(text)} has words or signs that the model does not know: {named}"
