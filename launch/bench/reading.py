"""Reading results of `lockstep bench` that may be damaged, foreign or of another release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from engine.errors import InvalidInput, first_problem
from launch.bench.document import BenchDocument

JSON_FILE = "bench.json"
_MOST_BYTES = 1 << 30


def read_document(path: Path) -> BenchDocument:
    """The results in a file, or in the folder of a bench.

    Raises:
        InvalidInput: there are none, or they are not of this schema.
    """
    file = path / JSON_FILE if path.is_dir() else path
    if not file.is_file():
        what = "which has no bench.json: name the --output of a bench" if path.is_dir() else "which is no file"
        raise InvalidInput(f"There are no results in {str(path)!r}, {what}.")
    if file.stat().st_size > _MOST_BYTES:
        raise InvalidInput(f"{str(file)!r} is larger than 1 GiB, so that it is no result of lockstep bench.")
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise InvalidInput(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError):  # bytes that are no text are a ValueError too
        raise InvalidInput(f"{str(file)!r} is damaged or no JSON file: name a {JSON_FILE} or its folder.") from None
    known = get_args(BenchDocument.model_fields["schema_"].annotation)
    if not isinstance(content, dict) or "schema" not in content or "seconds_per_video" not in content:
        raise InvalidInput(f"{str(file)!r} holds no results of lockstep bench: name a {JSON_FILE} or its folder.")
    if content["schema"] not in known or isinstance(content["schema"], bool):
        raise InvalidInput(
            f"{str(file)!r} has schema {content['schema']!r}, and this release reads {known[0]}: measure again with it."
        )
    try:
        document = BenchDocument.model_validate(content)
    except ValidationError as error:
        key, problem = first_problem(error)
        raise InvalidInput(f"{str(file)!r} is damaged at {key}: {problem}; measure again.") from None
    _refuse_impossible(document, file)
    return document


def _refuse(constant: str) -> None:
    """NaN and infinities are none of JSON's, nor a time."""
    raise ValueError(constant)


def _refuse_impossible(document: BenchDocument, file: Path) -> None:
    """Refuse what has the schema and cannot have been measured.

    Raises:
        InvalidInput: there is such a thing.
    """
    variants = {"samples": document, "cache_off.samples": document.cache_off, "against.samples": document.against}
    for key, measured in variants.items():
        if measured is None:
            continue
        count = len(measured.samples)
        if not count or not all(0 <= sample.round < count for sample in measured.samples):
            what = "a round that is not among them" if count else "no samples"
            raise InvalidInput(f"{str(file)!r} is damaged at {key}: it has {what}; measure again.")
