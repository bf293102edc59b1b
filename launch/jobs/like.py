"""`--like`: the options that make the video of a file again, from the tag in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.checkpoints.match import content_hash
from engine.config import Config
from engine.errors import InvalidInput
from engine.execution.versions import describe_versions
from engine.generation.tag import Tag, TaggedRequest
from engine.generation.tagged import read_tag
from engine.request import Task
from launch.jobs.config import load_job_config
from launch.jobs.options import Options
from launch.jobs.recipes import find_recipe

_WHAT = "--like is"
_END_OF_SCALAR = "\n...\n"
"""What PyYAML puts behind a value that stands alone."""


def options_like(
    video: Path,
    config: str | None,
    overrides: Sequence[str] = (),
    image: Path | None = None,
    last_image: Path | None = None,
) -> Options:
    """The options that make a video again. Files are taken from the configuration and the command line alone: the tag
    has hashes of those that it was made from, and the name of the model, which is compared and not opened.

    Args:
        video: an mp4 file.
        config: the configuration file; None for that of the video's model, if it is here.
        overrides: configuration keys, which win over the tag.
        image, last_image: as they are given; they are to be, where the video was made from some.

    Raises:
        InvalidInput: the file has no tag that can be used, or needs something that is not given.
    """
    tag = read_tag(video, _WHAT)
    request = tag.request
    if request.samples > 1 or request.noise == "given":
        how = f"with {request.samples - 1} others at once" if request.samples > 1 else "from noise that was given"
        raise InvalidInput(f"{_WHAT} {str(video)!r}, which was made {how} by a program: have that make it again.")
    for option, was, now in (("--image", request.image, image), ("--last-image", request.last_image, last_image)):
        if was is not None and now is None:
            raise InvalidInput(
                f"{_WHAT} {str(video)!r}, which was made from an image, and none is in its tag: give it with {option}."
            )
    elsewhere = any(line.partition("=")[0].strip() == "model.path" for line in overrides)
    config = config or find_recipe(tag.model.name, elsewhere)
    given: dict[str, Any] = {"sampling": request.sampling.model_dump(mode="json")}
    given |= {f"model.{key}": value for key, value in request.model.items()}
    given |= {f"runtime.{key}": value for key, value in request.runtime.items()}
    merged = {"cache": _cache(request, video, config, overrides)}
    settings = (*map(_override, given.items()), *overrides, *map(_override, merged.items()))
    return Options(
        config, (request.prompt,), None, request.negative_prompt, (request.seed,), overrides=settings, like=video
    )


def differences_from(options: Options, config: Config, tasks: Sequence[Task]) -> list[str]:
    """Lines on what differs here from what ``options.like`` was made with, beside what the command line says.

    Args:
        config: its model's path is a folder. tasks: share their images.
    """
    if options.like is None:
        return []
    try:
        tag = read_tag(options.like, _WHAT)
        model = tag.model.differs_in(config.model)
        files = _files_that_differ(tag, config, tasks)
    except (InvalidInput, OSError):  # not there any more: what follows says so, if it matters
        return []
    lines = []
    if model:
        lines.append(f"the model is not the one that made {options.like} ({tag.model.name}: {', '.join(model)} differ)")
    lines += [f"{name} is not what {options.like} was made with" for name in files]
    here = describe_versions()
    other = [f"{name} {was}, now {here.get(name)}" for name, was in tag.versions.items() if here.get(name) != was]
    if other:
        lines.append(f"{options.like} was made with other versions ({'; '.join(other)}): the video may differ")
    return lines


def _files_that_differ(tag: Tag, config: Config, tasks: Sequence[Task]) -> list[str]:
    """Options and keys whose files have another content."""
    then, images = tag.request, tasks[0].request
    pairs = {
        "--image": (then.image, images.image),
        "--last-image": (then.last_image, images.last_image),
        "cache.calibration": (then.cache.calibration, config.cache.calibration),
        "cache.replay": (then.cache.replay, config.cache.replay),
    }
    return [name for name, (was, now) in pairs.items() if was is not None and now and content_hash(now) != str(was)]


def _cache(request: TaggedRequest, video: Path, config: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The cache section of a tag, with the files of the configuration and the user's overrides."""
    own = load_job_config(config).cache
    then = request.cache
    files = {"calibration": own.calibration if then.calibration else None, "replay": None}
    section = then.model_dump(mode="json") | {key: path and str(path) for key, path in files.items()}
    merged = load_job_config(config, overrides, sections={"cache": section}).cache
    if then.replay and merged.replay is None and merged.method == then.method:
        raise InvalidInput(
            f"{_WHAT} {str(video)!r}, which repeats the steps of a run report that is not in its tag: give that with "
            "--set cache.replay=REPORT."
        )
    return merged.model_dump(mode="json")


def _override(setting: tuple[str, Any]) -> str:
    """``key=value``, in one line of YAML."""
    key, value = setting
    text = yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False)
    return f"{key}={text.partition(_END_OF_SCALAR)[0].strip()}"
