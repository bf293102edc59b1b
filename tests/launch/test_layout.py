"""What `lockstep layout` prints, and the table of layouts in the README."""

import io
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from engine.models.catalog import CATALOG, PublishedModel
from launch.jobs.config import load_job_config
from launch.screens.layout import print_layout
from parallel.config import ParallelConfig
from parallel.place import Place
from parallel.placement import find_placement
from tests.support.small_model import ROOT, tiny_config

NODE_OF_EIGHT = 8
# recipes that two nodes of eight are laid out for in another way than "cfg 2, ulysses 8"
LAID_OUT = {
    "wan2.1-t2v-1.3b.yaml": "cfg 2, ulysses 4, ring 2",  # 12 heads
    "hunyuan-video.yaml": "ulysses 8, ring 2",  # one branch
    "hunyuan-video-i2v.yaml": "ulysses 8, ring 2",
    "hunyuan-video-i2v-33ch.yaml": "ulysses 8, ring 2",
}


def printed(nodes: int, devices: int, *overrides: str) -> list[str]:
    stream = io.StringIO()
    print_layout(tiny_config(*overrides), nodes, devices, stream)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def groups(lines: list[str]) -> list[list[str]]:
    """The rows of the table, below its rule."""
    rule = next(index for index, line in enumerate(lines) if line.startswith("──"))
    assert lines[rule - 1].split() == ["node", "data", "cfg", "ring", "ulysses", "ranks"]
    return [line.split() for line in lines[rule + 1 :]]


def test_degrees_reasons_and_where_groups_lie() -> None:
    lines = printed(2, 8, "parallel=auto")
    assert lines[0].split(maxsplit=1) == ["layout", "cfg 2, ulysses 4, ring 2"]
    labels = [line[:11].strip() for line in lines[1:4]]
    assert labels == ["cfg 2", "ulysses 4", "ring 2"]
    assert "8 ranks each" in lines[1] and "4 attention heads" in lines[2] and "inside nodes of 8" in lines[3]
    assert lines[4].split(maxsplit=1) == ["tokens", "80 in a sequence, 10 on each rank"]
    assert groups(lines) == [
        ["0", "0", "0", "0", "0-3"],
        ["0", "0", "0", "1", "4-7"],
        ["1", "0", "1", "0", "8-11"],
        ["1", "0", "1", "1", "12-15"],
    ]


def test_groups_that_cross_nodes_and_uneven_shards() -> None:
    lines = printed(3, 2, "parallel.ulysses=1", "parallel.ring=6")
    assert "80 in a sequence, 13 or 14 on each rank" in lines[4]
    assert [row[0] for row in groups(lines)] == ["0", "0", "1", "1", "2", "2"]
    lines = printed(2, 2, "parallel.ulysses=4")
    assert lines[2].split(maxsplit=2) == ["ulysses", "4", "As given."]
    assert groups(lines) == [["0-1", "0", "0", "0", "0-3"]]


def test_one_rank() -> None:
    lines = printed(1, 1, "parallel=auto")
    assert lines[0].split(maxsplit=1) == ["layout", "one rank"]
    assert groups(lines) == [["0", "0", "0", "0", "0"]]


def test_a_narrow_character_set() -> None:
    stream = io.TextIOWrapper(buffer := io.BytesIO(), encoding="ascii")
    print_layout(tiny_config("parallel=auto"), 1, 4, stream)
    stream.flush()
    assert "cfg 2, ulysses 2" in buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.name)
def test_a_recipe_can_be_laid_out_before_its_model_is_downloaded(
    model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the folder that the recipe names, and by the id on the hub, which nobody asks."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    recipe = ROOT / "configs" / model.recipe
    for overrides in ([], [f"model.path={model.hub_id}"]):
        config, stream = load_job_config(recipe, overrides), io.StringIO()
        print_layout(config, 2, 8, stream)
        name, layout, *_ = stream.getvalue().splitlines()
        assert name.startswith("model") and model.name in name and "no folder" in name
        assert layout.split(maxsplit=1) == ["layout", LAID_OUT.get(model.recipe, "cfg 2, ulysses 8")]
    with pytest.raises(InvalidInput, match="no model folder"):
        print_layout(load_job_config(recipe, ["model.path=another"]), 2, 8, stream)


def test_a_published_name_with_something_else_in_it_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "Wan2.1-T2V-14B-Diffusers"
    folder.mkdir()
    config = load_job_config(ROOT / "configs" / "wan2.1-t2v-14b.yaml", [f"model.path={folder}"])
    with pytest.raises(InvalidInput, match="model_index"):
        print_layout(config, 2, 8, io.StringIO())


def test_the_readmes_table_of_layouts_is_what_is_chosen() -> None:
    rows = []
    for ranks in (2, 4, 8, 16):
        nodes = max(1, ranks // NODE_OF_EIGHT)
        cells = [f"{ranks}, on {nodes} nodes" if nodes > 1 else str(ranks)]
        for heads, guided in ((12, True), (40, True), (12, False), (40, False)):
            video = {"num_heads": heads, "num_tokens": 32760, "guided": guided}
            degrees = find_placement(ParallelConfig(cfg=None), Place(ranks, nodes=nodes), **video).degrees
            axes = {"cfg": degrees.cfg, "ulysses": degrees.ulysses, "ring": degrees.ring}
            cells.append(" × ".join(f"{axis} {degree}" for axis, degree in axes.items() if degree > 1))
        rows.append(f"| {' | '.join(cells)} |")
    assert "\n".join(rows) in (ROOT / "README.md").read_text(encoding="utf-8"), "\n".join(rows)
