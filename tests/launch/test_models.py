"""`lockstep models`, and the page of models."""

import io
import re
import shlex
from operator import attrgetter

import pytest
import typer
import yaml
from rich.console import Console

from engine.checks.model import check_size
from engine.cost.memory import choose_degrees, estimate
from engine.errors import InvalidInput
from engine.models.catalog import CATALOG, PublishedModel
from launch.commands.app import app
from launch.jobs.config import load_job_config
from launch.screens import models as table
from launch.screens.models import print_models, ulysses_degrees
from launch.screens.models_page import RECIPES, models_page, read_comments
from parallel.degrees import Degrees
from tests.support.small_model import ROOT

PAGE = ROOT / "docs" / "models.md"


def printed(ranks: int = 8) -> str:
    stream = io.StringIO()
    print_models(ranks, stream)
    return stream.getvalue()


def test_the_table_in_a_pipe() -> None:
    text = printed()
    assert "…" not in text
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 120
    for model in CATALOG:
        row = next(line for line in lines if line.startswith(f"{model.name} "))
        assert model.tasks[0] in row and " ".join(map(str, ulysses_degrees(model))) in row
        assert [int(cell) for cell in row.split()[-2:]] == [
            round(estimate(model, choose_degrees(model, ranks)).peak / 1e9) for ranks in (1, 8)
        ]
        assert any(line.startswith(model.recipe) for line in lines)
    for word in ("shard_weights", "dicache, fbcache", "ring", "parallel: auto"):
        assert word in text


def test_memory_on_as_many_ranks_as_asked() -> None:
    heading = printed(4).splitlines()[0]
    assert heading.split()[-6:] == ["GB", "on", "1", "GB", "on", "4"]
    row = next(line for line in printed(4).splitlines() if line.startswith("Wan 2.1 T2V 14B "))
    degrees = Degrees(cfg=2, ulysses=2)
    assert int(row.split()[-1]) == round(estimate(CATALOG[1], degrees).peak / 1e9)
    assert printed(1).splitlines()[0].split()[-3:] == ["GB", "on", "1"]
    for ranks in (0, 1025):
        with pytest.raises(InvalidInput, match=rf"--ranks is {ranks}, .* from 1 to 1024\.$"):
            printed(ranks)
    assert "GB on 1021" in printed(1021), "a prime number of them is a ring"


def test_degrees_are_those_that_divide_the_heads() -> None:
    degrees = {model.name: ulysses_degrees(model) for model in CATALOG}
    assert degrees["Wan 2.1 T2V 1.3B"] == [2, 3, 4, 6, 12]
    assert degrees["Wan 2.1 T2V 14B"] == [2, 4, 5, 8, 10, 20, 40]


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_folds_and_loses_nothing(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(table, "make_console", lambda stream: Console(file=stream, width=width))
    print_models(8, stream)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    letters = "".join(line.split("  ")[0].strip() for line in lines if line.strip())
    for model in CATALOG:
        assert "".join(model.name.split()) in letters.replace(" ", "")
        assert model.recipe in letters.replace(" ", "")


def test_a_narrow_character_set() -> None:
    stream = io.TextIOWrapper(buffer := io.BytesIO(), encoding="ascii")
    print_models(8, stream)
    stream.flush()
    assert "81 x 720 x 1280" in buffer.getvalue().decode("ascii")


def test_the_command_is_there() -> None:
    assert "models" in {command.callback.__name__ for command in app.registered_commands if command.callback}


def test_the_page_is_what_catalog_and_recipes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == models_page(), (
        "run python -m launch.screens.models_page > docs/models.md"
    )


@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.name)
def test_the_page_has_every_setting_of_a_recipe_with_its_value(model: PublishedModel) -> None:
    """Read by YAML here, line by line there: what has no comment would be missing from the page."""
    text = (RECIPES / model.recipe).read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    cache = tree["cache"]
    sections = {"sampling": tree["sampling"], "cache": cache}
    sections |= {f"cache.{kind}": cache.pop(kind) for kind in ("gate", "estimator")}
    expected = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    shown = {key: yaml.safe_load(value) for key, value, _ in read_comments(text)}
    assert shown == expected
    config = load_job_config(RECIPES / model.recipe)
    for key, value in shown.items():
        assert attrgetter(key)(config) == value
    assert all(comment.strip() for *_, comment in read_comments(text))
    assert f"lockstep generate configs/{model.recipe} " in text and model.hub_id in text


@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.name)
def test_the_commands_in_a_recipe_can_be_typed(model: PublishedModel) -> None:
    text = (RECIPES / model.recipe).read_text(encoding="utf-8")
    (command,) = re.findall(r"^#   lockstep (generate .*)$", text, re.MULTILINE)
    generate = typer.main.get_command(app).commands["generate"]  # type: ignore[attr-defined]
    _, config, *arguments = shlex.split(command)
    given = generate.make_context("generate", [config, *arguments], resilient_parsing=True).params
    assert given["config"] == f"configs/{model.recipe}" and given["prompt"]
    assert bool(given["image"]) == ("text-to-video" not in model.tasks)
    assert bool(given["last_image"]) == ("first-last-frame" in model.tasks)
    for hint in re.findall(r"^# At 480p: (.*)$", text, re.MULTILINE):
        overrides = [part for part in shlex.split(hint) if part != "--set"]
        sampling = load_job_config(RECIPES / model.recipe, overrides).sampling
        check_size(sampling, model.facts)
        assert (sampling.height, sampling.width) == (480, 832)


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/models.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
