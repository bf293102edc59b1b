"""The page `docs/models.md`: the published models, written from the catalog, the recipes and their comments.

python -m launch.screens.models_page > docs/models.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from dicache.pairs import MethodName
from dicache.published.magnitudes import TABLES
from dicache.published.polynomials import POLYNOMIALS
from engine.cost import memory
from engine.cost.memory import num_branches
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.published import published_name
from launch.screens.models import gigabytes, ulysses_degrees

RECIPES = Path(__file__).parents[2] / "configs"
HEAD = """# Models

Written by `python -m launch.screens.models_page` from `engine/models/catalog.py` and the recipes in `configs/`; a
test compares it with them. `lockstep models` prints the short form. The [small model](../configs/tiny_wan/README.md)
ships; all others are found in the hub's cache, or downloaded into it by the first run. `hf download` does that
beforehand (it brings everything in the repository; a run only what it reads); `--set model.path=FOLDER` names a copy
of your own.

## Memory

Gigabytes (10⁹ bytes) on each GPU, for the recipe's video in bfloat16 with DiCache, one video at a time. **Computed by
the formula below, not measured on a GPU.** The layouts are those of `parallel: auto` on one machine; "shared out" is
with `--set parallel.shard_weights=true`, "blocks" with `--set runtime.offload=blocks`, which makes Wan 14B at 480p
fit on a card of 24 GB (13 GB) and HunyuanVideo on one of 40 GB. Before a weight is read, a run compares the formula
with the card that it finds, and names the nearest setting that fits.
"""
TAIL = """## Negative prompts

Wan's authors sample with a negative prompt that lists what they do not want to see; it is not part of a recipe, since
it belongs to a request. In English, from the README.md of Wan-Video/Wan2.1, for `--negative-prompt`:

    Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall
    gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands,
    poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three
    legs, many people in the background, walking backwards

Without `--negative-prompt` it is empty. HunyuanVideo has its guidance distilled into the weights and takes none,
but for HunyuanVideo I2V 33ch and HunyuanVideo 1.5 where `sampling.guidance` is above 1.

## DiCache's settings

From the paper (Bu et al., arXiv 2508.17356) and its code (github.com/Bujiazi/DiCache: `WAN2.1/run_wan_dicache.py`,
`HunyuanVideo/run_hunyuanvideo_dicache.py`). The authors measured Wan 2.1 1.3B at 480p and HunyuanVideo at 544 × 960;
for every other model the recipes start from the more careful of their values. Thresholds do not carry over between
models and step counts: compare with `--set cache.method=none` on prompts of your own before you raise one.
"""


def models_page() -> str:
    """Markdown: the memory of all models, then for each its download, commands and settings."""
    lines = [HEAD, "| model | 1 GPU | 1 GPU, blocks | 8 GPUs | 8 GPUs, shared out |", "|---|---|---|---|---|"]
    lines += [_memory_row(model) for model in CATALOG]
    formula = inspect.cleandoc(memory.__doc__ or "").split("\n\n", 1)[1]
    lines += ["", formula, ""]
    for model in CATALOG:
        lines += _section(model)
    return "\n".join([*lines, TAIL])


def _memory_row(model: PublishedModel) -> str:
    shared = gigabytes(model, 8, shard_weights=True)
    blocks = gigabytes(model, 1, offload="blocks")
    return f"| {model.name} | {gigabytes(model, 1)} | {blocks} | {gigabytes(model, 8)} | {shared} |"


def _section(model: PublishedModel) -> Iterator[str]:
    facts, text = model.facts, (RECIPES / model.recipe).read_text(encoding="utf-8")
    counts = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in model.parameters.items())
    yield f"## {model.name}\n"
    yield f"{' and '.join(model.tasks).capitalize()}. Billions of parameters: {counts}. {facts.num_layers} blocks,"
    yield f"{facts.num_heads} heads (Ulysses {', '.join(map(str, ulysses_degrees(model)))}), {_branches(model)}.\n"
    yield f"Cache methods: {', '.join(_methods(model))}.\n"
    yield f"    hf download {model.hub_id}"
    yield from (f"    {command}" for command in re.findall(r"^#   (lockstep generate .*)$", text, re.MULTILINE))
    hints = re.findall(r"^# ((?:At|From) .*)$", text, re.MULTILINE)
    yield "".join(f"\n{hint.split(': ', 1)[0]}: `{hint.split(': ', 1)[1]}`.\n" for hint in hints)
    yield f"Settings of [configs/{model.recipe}](../configs/{model.recipe}), after {model.source}:\n"
    yield "| key | value | |"
    yield "|---|---|---|"
    yield from (f"| `{key}` | `{value}` | {comment} |" for key, value, comment in read_comments(text))
    yield ""


def _methods(model: PublishedModel) -> list[str]:
    """The methods that need no numbers of the model, and those with numbers that their authors publish for it."""
    name = published_name(model)
    tabled = {
        "teacache": name in POLYNOMIALS,
        # more than one, where a model is run in two ways
        "magcache": any(key == name or key.startswith(f"{name}-") for key in TABLES),
    }
    methods = get_args(MethodName)
    return [f"`{method}`" for method in methods if tabled.get(method, True)]


def _branches(model: PublishedModel) -> str:
    return "two guidance branches" if num_branches(model) == 2 else "one branch, with the guidance distilled"


def read_comments(recipe: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and comment of each line of a recipe's sections ``sampling`` and ``cache``."""
    sections: list[str] = []
    for line in recipe.splitlines():
        if not (entry := re.match(r"( *)(\w+):(?: (\S+)\s+# (.+))?", line)):
            continue
        indent, key, value, comment = entry.groups()
        sections = [*sections[: len(indent) // 2], key]
        if sections[0] in ("sampling", "cache") and comment:
            yield ".".join(sections), value, comment


if __name__ == "__main__":
    print(models_page(), end="")
