"""Reads the small files of a model folder, and checks its weight files without reading a weight."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput, MachineUnfit

_TOKENIZERS = ("tokenizer.json", "spiece.model", "vocab.json")
_GIT_LFS = b"version https://git-lfs"
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it
_GARBLED = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


def read_json(file: Path) -> dict[str, Any]:
    """The settings in a JSON file.

    Raises:
        InvalidInput: it is missing, cannot be read or holds something else.
    """
    try:
        text = file.read_bytes()
        if text.startswith(_GIT_LFS):
            raise InvalidInput(f"{file} is only a Git LFS pointer: fetch the file with git lfs pull.")
        content = json.loads(text)
    except FileNotFoundError:
        raise MachineUnfit(
            f"{file} is missing, so this is no model in the diffusers layout: download it, or correct model.path."
        ) from None
    except InvalidInput:
        raise
    except _GARBLED as error:
        raise MachineUnfit(f"{file} cannot be read ({error}): download the model again.") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{file} holds no settings: download the model again.")
    return content


def check_class(folder: Path, component: str, index: Mapping[str, Any], accepted: tuple[str, ...]) -> None:
    """Refuse a component that ``model_index.json`` lacks, or whose class there or in its own configuration is not
    accepted.

    Args:
        index: the content of ``model_index.json``.
        accepted: names of classes, of which the first is named in the error. Empty accepts any.

    Raises:
        InvalidInput: one sentence that names the class and the file.
    """
    entry = index.get(component)
    listed = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if listed is None:
        raise InvalidInput(
            f"{folder / 'model_index.json'} lists no {component}, which a {index.get('_class_name')} needs: "
            "download the model again."
        )
    config = read_json(folder / component / "config.json")
    architectures = config.get("architectures")
    own = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else None)
    for file, name in ((folder / "model_index.json", listed), (folder / component / "config.json", own)):
        if name is not None and accepted and name not in accepted:
            raise InvalidInput(
                f"{file} says that the {component} is a {name}, but that of a {index.get('_class_name')} is a "
                f"{accepted[0]}: use another model, or download it again."
            )


def check_tokenizer(folder: Path, component: str) -> None:
    """Refuse a folder without a tokenizer's files, with Git LFS pointers instead, or with damaged JSON.

    Raises:
        InvalidInput: one sentence that names the folder or the file.
    """
    settings = folder / component / "tokenizer_config.json"
    if settings.exists():
        read_json(settings)
    files = [folder / component / name for name in _TOKENIZERS if (folder / component / name).is_file()]
    if not files:
        raise MachineUnfit(f"{folder / component} holds no tokenizer.json: download the model again.")
    for file in files:
        if file.suffix == ".json":
            read_json(file)  # 20 MB at most, a quarter of a second
            continue
        try:
            with file.open("rb") as stream:
                start = stream.read(len(_GIT_LFS))
        except OSError as error:
            raise MachineUnfit(f"{file} cannot be read ({error.strerror}): download the model again.") from None
        if start == _GIT_LFS:
            raise InvalidInput(f"{file} is only a Git LFS pointer: fetch the file with git lfs pull.")


def check_chat_template(folder: Path, component: str) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        InvalidInput: one sentence that names the folder.
    """
    settings = read_json(folder / component / "tokenizer_config.json")
    if not (folder / component / "chat_template.jinja").is_file() and not settings.get("chat_template"):
        raise InvalidInput(f"{folder / component} holds no chat_template.jinja: download the model again.")


def read_index(shards: Path) -> dict[Path, list[str]]:
    """The files that an index of weights lists, sorted, each with the names of its tensors.

    Raises:
        InvalidInput: the index cannot be read, or lists nothing that could be files.
    """
    names = read_json(shards).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InvalidInput(f"{shards} lists no weights: download the model again.")
    listed: dict[Path, list[str]] = {shards.parent / name: [] for name in sorted(set(names.values()))}
    for tensor, name in names.items():
        listed[shards.parent / name].append(tensor)
    return listed


def read_header(file: Path, advice: str) -> dict[str, Any]:
    """The header of a safetensors file: ``dtype``, ``shape`` and ``data_offsets`` by name of the tensor.

    Args:
        advice: what the user should do about a file that is missing or damaged, for the error.

    Raises:
        InvalidInput: the file is absent, a Git LFS pointer, of another format or cut short.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_GIT_LFS))
            if start == _GIT_LFS:
                raise InvalidInput(f"{file} is only a Git LFS pointer: fetch the weights with git lfs pull.")
            header_bytes = int.from_bytes(start[:8], "little")
            size = file.stat().st_size
            if 8 + header_bytes <= size and header_bytes <= _LARGEST_HEADER:
                stream.seek(8)
                header = json.loads(stream.read(header_bytes))
                tensors: dict[str, Any] = {name: entry for name, entry in header.items() if name != "__metadata__"}
                ends = [entry["data_offsets"][1] for entry in tensors.values()]
                if 8 + header_bytes + max(ends, default=0) == size:
                    if wrong := _misplaced(tensors):
                        raise MachineUnfit(f"The weights {file} are damaged ({wrong[:200]}): {advice}.")
                    return tensors
    except FileNotFoundError:
        raise MachineUnfit(f"The weights {file} are missing: {advice}.") from None
    except InvalidInput:
        raise
    except _GARBLED as error:
        raise MachineUnfit(f"The weights {file} cannot be read ({error}): {advice}.") from None
    raise MachineUnfit(f"The weights {file} are cut short or damaged: {advice}.")


# bits of an element; dtypes of fewer than eight, and those that are not here, are refused elsewhere by name
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "BOOL": 8}
_BITS |= {f"{sign}{bits}": bits for sign in "IU" for bits in (64, 32, 16, 8)}


def _misplaced(tensors: Mapping[str, Any]) -> str | None:
    """What is wrong with the places of tensors, which must follow one another and be as long as dtype and shape say.

    The library checks the same, but imports numpy or torch for it, for which a command that refuses has no time.
    """
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, after = entry["data_offsets"]
        if begin != end:
            return f"{name} begins at {begin}, and the tensor before it ends at {end}"
        bits = _BITS.get(entry["dtype"])
        if bits is not None and (after - begin) * 8 != math.prod(entry["shape"]) * bits:
            return f"{name} of {entry['dtype']} and shape {entry['shape']} takes {after - begin} bytes"
        end = after
    return None
