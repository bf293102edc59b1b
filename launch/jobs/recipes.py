"""Finds the configuration of a model by the model's name, among those that are here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from engine.errors import InvalidInput
from engine.generation.tag import model_name
from engine.models.hub import resolve_model
from launch.jobs.config import JobConfig, load_job_config

_FOLDERS = (Path("configs"), Path(__file__).parents[2] / "configs")
"""Of the working directory, and of the checkout that this program is in."""


def find_recipe(model: str, elsewhere: bool = False) -> str:
    """The one configuration in ``configs/`` whose model has that name and is on this machine. The name is compared with
    those of models that are known here; nothing is looked for by it.

    Args:
        model: as of :func:`engine.generation.tag.model_name`.
        elsewhere: the user says where the model is, so it need not be where the configuration has it.

    Raises:
        InvalidInput: there is none, or there are several.
    """
    found: dict[Path, Path] = {}
    for file in _files(_short(model)):
        try:
            config = load_job_config(file)
        except InvalidInput:  # of another program, perhaps
            continue
        if _short(model_name(config.model.path)) == _short(model) and (elsewhere or _is_here(config)):
            found.setdefault(file.resolve(), file)
    files = list(found.values())
    if len(files) == 1:
        return str(files[0])
    if files:
        raise InvalidInput(f"{' and '.join(map(str, files))} are of the model {model!r}: name one as CONFIG.")
    raise InvalidInput(
        f"There is no CONFIG, and none in configs/ is of the model {model!r} where that is on this machine: name one, "
        "as in lockstep generate CONFIG."
    )


def _files(word: str) -> Iterator[Path]:
    """Those in which the word stands: to check them all would take a second."""
    for folder in _FOLDERS:
        for file in sorted(folder.glob("*.yaml")):
            with suppress(OSError, ValueError):
                if word and word in file.read_text(encoding="utf-8"):
                    yield file


def _short(name: str) -> str:
    """Without revision and organisation: a model of the hub may have been downloaded into a folder."""
    return name.partition("@")[0].rpartition("/")[2]


def _is_here(config: JobConfig) -> bool:
    try:
        return Path(resolve_model(config, lambda line: None, download=False).model.path).is_dir()
    except InvalidInput:
        return False
