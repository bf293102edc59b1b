"""The rows of the catalog are what the published configurations say, counted on the meta device."""

from typing import Any

import pytest
import torch

from engine.models.catalog import CATALOG, PublishedModel
from tests.support.published_components import COMPONENTS, CONFIG_CLASSES, name_of
from tests.support.small_model import ROOT
from tests.support.tiny_models import TINY_MODELS


def made(kind: Any, settings: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        module: torch.nn.Module = kind(CONFIG_CLASSES[kind](**settings)) if kind in CONFIG_CLASSES else kind(**settings)
    return module


def test_every_row_is_counted_has_a_reduced_model_and_names_of_its_own() -> None:
    names = [model.name for model in CATALOG]
    assert names == list(COMPONENTS) == list(TINY_MODELS)
    for key in ("name", "hub_id", "recipe"):
        assert len({getattr(model, key) for model in CATALOG}) == len(CATALOG)


def test_every_recipe_of_a_published_model_has_a_row() -> None:
    recipes = {file.name for file in (ROOT / "configs").glob("*.yaml")}
    others = {"tiny-wan.yaml", "mlperf-wan2.2-t2v-a14b.yaml"}  # the second is of a model that has a recipe of its own
    assert recipes - others == {model.recipe for model in CATALOG}


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_parameters_of_each_component(model: PublishedModel) -> None:
    counted = {
        folder: sum(parameter.numel() for parameter in made(kind, settings).parameters())
        for folder, (kind, settings) in COMPONENTS[model.name].items()
    }
    assert dict(model.parameters) == counted


@pytest.mark.parametrize("model", CATALOG, ids=name_of)
def test_sizes(model: PublishedModel) -> None:
    settings = COMPONENTS[model.name]["transformer"][1]
    assert {key: settings[key] for key in model.transformer} == dict(model.transformer)
    vae = made(*COMPONENTS[model.name]["vae"]).config
    assert {key: vae[key] for key in model.vae} == dict(model.vae)
    facts, family = model.facts, model.facts.family
    assert facts == type(facts)(
        model.pipeline,
        family,
        **family.read_sizes(settings, vae),
        boundary_timestep=facts.boundary_timestep,
    )
    assert len(facts.transformers) == sum(folder.startswith("transformer") for folder in model.parameters)
    blocks = made(*COMPONENTS[model.name]["transformer"])
    weights = [parameter for name, parameter in blocks.named_parameters() if name.endswith("to_q.weight")]
    assert {weight.shape[0] for weight in weights} >= {model.dim}
