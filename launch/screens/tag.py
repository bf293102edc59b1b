"""What `lockstep show` prints of a video: what it was made from, as its tag says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from engine.generation.tag import Tag
from launch.process.printable import printable


def print_tag(video: Path, tag: Tag, stream: IO[str]) -> None:
    """One line for each thing, a label in front. Prompts are whole, without control characters."""
    for label, text in _lines(video, tag):
        print(f"{label:<9} {printable(text, max(len(text), 1))}", file=stream)


def _lines(video: Path, tag: Tag) -> Iterator[tuple[str, str]]:
    request, sampling = tag.request, tag.request.sampling
    yield "video", str(video)
    yield "prompt", request.prompt
    if request.negative_prompt:
        yield "negative", request.negative_prompt
    for label, content in (("image", request.image), ("last", request.last_image)):
        if content is not None:
            yield label, f"not in the file; SHA-256 {content}"
    place = f", {request.sample + 1} of {request.samples} made at once" if request.samples > 1 else ""
    yield "seed", f"{request.seed}{' (its noise was given)' if request.noise == 'given' else ''}{place}"
    rate = f"{sampling.fps:g} frames per second"
    yield "size", f"{sampling.width}x{sampling.height}, {sampling.frames} frames, {rate}"
    yield "sampling", _keys(sampling.model_dump(exclude={"width", "height", "frames", "fps"}))
    yield "cache", _keys(request.cache.model_dump(mode="json"))
    steps = tag.steps
    yield "steps", f"{steps.computed} computed, {steps.skipped} skipped; {steps.block_fraction:.1%} of the blocks ran"
    yield "model", f"{tag.model.name}, fingerprint {tag.model.files}"
    for name, content in tag.model.single_files.items():
        yield "", f"{name} from a file of its own, fingerprint {content}"
    if tag.model.loras:
        yield "", f"with {len(tag.model.loras)} LoRA{'s' if len(tag.model.loras) > 1 else ''}"
    yield "", _keys({**request.model, **request.runtime})
    yield "versions", ", ".join(f"{name} {version}" for name, version in tag.versions.items())
    yield "latents", f"SHA-256 {tag.latents_sha256}"


def _keys(section: Mapping[str, Any], prefix: str = "") -> str:
    """``key=value`` of each key that has a value, with spaces between."""
    parts = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            parts.append(_keys(value, f"{prefix}{key}."))
        elif value is not None:
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            parts.append(f"{prefix}{key}={f'({shown})' if ' ' in shown else shown}")
    return " ".join(filter(None, parts))
