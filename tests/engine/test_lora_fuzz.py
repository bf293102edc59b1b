"""Random adapters over the known spellings: each is added as the reference adds it, or refused for the true reason."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.components.loras.adding import add_loras, lora_notes
from engine.components.loras.layers import layers_by_name
from engine.components.loras.plan import plan_lora
from engine.components.parts import parts_of
from engine.config import Config, LoraConfig
from engine.errors import InvalidInput, RankFailure
from engine.models.facts import ModelFacts, read_facts
from engine.models.loras import check_lora_files
from tests.support.adapter_faults import ANOTHER_MODEL, FAULTS
from tests.support.adapter_files import Maker
from tests.support.adapter_model import Model
from tests.support.checkpoints import write_published_wan
from tests.support.hunyuan15_checkpoint import write_hunyuan15_checkpoint
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.small_model import tiny_config

WRITERS = {
    "Wan": ("wan", 3, lambda folder: write_published_wan(folder, "Wan2.1-T2V-1.3B")),
    "Wan I2V": ("wan", 3, lambda folder: write_published_wan(folder, "Wan2.1-I2V-14B")),
    "HunyuanVideo": ("hunyuan", 2, write_hunyuan_checkpoint),
    "HunyuanVideo 1.5": ("hunyuan15", 2, lambda folder: write_hunyuan15_checkpoint(folder, images=True)),
}
FILES = 200
EVERY_DAY = 32
"""Files of the tests that are not slow: the first ones."""


class Written:
    """A model in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        family, blocks, write = WRITERS[name]
        self.folder = write(folder)
        self.facts: ModelFacts = read_facts(self.folder)
        self._transformer = parts_of(self.facts.family).transformer.from_pretrained(folder / "transformer")
        self._transformer.requires_grad_(False)
        weights = {name: tensor.clone() for name, tensor in self._transformer.state_dict().items()}
        self.model = Model(family, blocks, weights)
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        self._layers = layers_by_name(shapes, self.facts.family.layer_names)
        self._config = tiny_config(f"model.path={self.folder}")

    def config(self, adapter: Path, scale: float) -> Config:
        loras = (LoraConfig(path=str(adapter), scale=scale),)
        config = self._config.model_copy(update={"model": self._config.model.model_copy(update={"loras": loras})})
        check_lora_files(config, self.facts)
        return config

    def added(self, config: Config) -> tuple[dict[str, torch.Tensor], Any]:
        """The weights with the adapter, and what was planned."""
        plan = plan_lora(config.model.loras[0], self.facts.family.layer_names, self._layers)
        self._transformer.load_state_dict({n: t.clone() for n, t in self.model.weights.items()}, assign=True)
        add_loras(self._transformer.requires_grad_(False), [plan], "transformer")
        return self._transformer.state_dict(), plan


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    folder = tmp_path_factory.mktemp("models")
    return {name: Written(name, folder / str(number)) for number, name in enumerate(WRITERS)}


def check(number: int, written: dict[str, Written], folder: Path) -> str:
    """One random file; returns what became of it."""
    model = written[list(WRITERS)[number % len(WRITERS)]]
    maker = Maker(model.model, seed=1000 + number)
    adapter = maker.make()
    if number % 3:
        given = adapter.write(folder)
        weights, plan = model.added(model.config(given, adapter.scale))
        for name, expected in adapter.expected.items():
            if torch.equal(weights[name], expected):
                continue
            off = (weights[name].double() - expected.double()).abs().max()
            assert off <= 1e-5 * (1 + expected.abs().max()), (number, name, off, adapter.paths)
        changed = [n for n, before in model.model.weights.items() if not torch.equal(weights[n], before)]
        assert changed or not adapter.paths
        said = " ".join(lora_notes([plan]))
        assert plan.applied + len(adapter.left) == len(adapter.tensors), (number, plan.notes)
        assert sum(map(int, re.findall(r"(\d+) tensors? (?:is|are) not applied", said))) == len(adapter.left), said
        for name in adapter.left[:3]:
            assert name in said, (number, said)
        return "added"
    fault = FAULTS[number // 3 % len(FAULTS)](maker, adapter)
    given = adapter.write(folder)
    fault.damage(given)
    with pytest.raises(RankFailure if fault.while_loading else InvalidInput) as caught:
        model.added(model.config(given, adapter.scale))
    sentence = str(caught.value)
    assert str(folder) in sentence and "\n" not in sentence and sentence.endswith("."), sentence
    assert re.search(fault.reason, sentence), (number, fault, sentence)
    assert (ANOTHER_MODEL in sentence) == fault.is_shape, (number, sentence)
    return "refused"


def test_random_adapters(written: dict[str, Written], tmp_path: Path) -> None:
    became = [check(number, written, tmp_path / str(number)) for number in range(EVERY_DAY)]
    assert became.count("added") > 15 and became.count("refused") > 8


@pytest.mark.slow
@pytest.mark.parametrize("start", range(EVERY_DAY, FILES, 42))
def test_more_random_adapters(start: int, written: dict[str, Written], tmp_path: Path) -> None:
    for number in range(start, min(start + 42, FILES)):
        check(number, written, tmp_path / str(number))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault(fault: Any, written: dict[str, Written], tmp_path: Path) -> None:
    """With an adapter around it that is right: the file is refused all the same."""
    model = written["Wan" if len(fault.__name__) % 2 else "HunyuanVideo"]
    maker = Maker(model.model, seed=7)
    adapter = maker.make()
    found = fault(maker, adapter)
    given = adapter.write(tmp_path / "adapter")
    found.damage(given)
    with pytest.raises(RankFailure if found.while_loading else InvalidInput) as caught:
        model.added(model.config(given, 1.0))
    assert re.search(found.reason, str(caught.value)), str(caught.value)
    assert (ANOTHER_MODEL in str(caught.value)) == found.is_shape
