"""Text as a terminal may show it: without characters that move the cursor, change colours or reorder what is read."""

from __future__ import annotations

_JOINERS = "\u200c\u200d"  # written inside words of several languages, and inside emoji


LONGEST_LINE = 4000
"""Characters of any line that is shown: it may quote a prompt, a path or a file that is as long as a book."""


def printable(text: str, length: int = LONGEST_LINE) -> str:
    """The text in one line of at most ``length`` characters: its middle is left out if it is longer, white space is
    shown as spaces, and each character that has no shape of its own as U+FFFD.

    Among these are escape sequences, control characters, marks that change the direction of text, and bytes that are
    not UTF-8. File names, prompts and messages of libraries may hold them.
    """
    text = shortened(text, length)
    if text.isprintable():
        return text
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS:
        return letter
    return " " if letter.isspace() and letter not in "\x1c\x1d\x1e\x1f\x0b\x0c\x85" else "\N{REPLACEMENT CHARACTER}"


def shortened(text: str, length: int) -> str:
    """The text with its middle left out if it is longer than ``length`` characters. Both ends of an error matter: what
    was wrong, and what to do."""
    if len(text) <= length:
        return text
    end = length // 3
    return f"{text[: length - end - 1]}…{text[-end:]}"
