"""Model folders with one tensor that is not as it was: refused before weights load, or the same video as before.

The small model carries SHA-256 sums, so that a square matrix that is transposed is refused as well. Folders without
sums are refused for whatever names, shapes and dtypes tell.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.components.tensors import check_tensors
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, ROOT, tiny_config
from tests.support.tiny_models import TINY_MODELS

Tensors = dict[str, Tensor]
SMALL = ROOT / "configs" / "tiny_wan"
CHANGES = ("removed", "renamed", "transposed", "in fp8", "in whole numbers", "emptied", "reshaped")
SEED = 2026


@dataclass(frozen=True)
class Case:
    component: str
    tensor: str
    change: str
    number: int  # of the case, which decides what is random in it


def changed(tensors: Tensors, case: Case) -> Tensors:
    """The tensors of a component's file with one that is changed."""
    tensor, rest = tensors[case.tensor], {name: t for name, t in tensors.items() if name != case.tensor}
    choice = random.Random(case.number)
    match case.change:
        case "removed":
            return rest
        case "renamed":
            parts = case.tensor.split(".")
            parts[choice.randrange(len(parts))] += choice.choice(["_", "x", "0", ".module"])
            return rest | {".".join(parts): tensor}
        case "transposed":
            dims = list(range(tensor.ndim))
            while tensor.ndim > 1 and dims == sorted(dims):
                choice.shuffle(dims)
            return rest | {case.tensor: tensor.permute(dims).contiguous()}
        case "in fp8":
            return rest | {case.tensor: tensor.to(choice.choice([torch.float8_e4m3fn, torch.float8_e5m2]))}
        case "in whole numbers":
            return rest | {case.tensor: tensor.to(choice.choice([torch.int8, torch.int64, torch.bool]))}
        case "emptied":
            return rest | {case.tensor: tensor[:0]}
    return rest | {case.tensor: tensor.reshape(-1, 1)}


def sample(folder: Path, number: int) -> list[Case]:
    """Every change in turn, each on a tensor of a component that are drawn anew."""
    choice = random.Random(SEED)
    files = {component: file_of(folder, component) for component in read_facts(folder).components}
    names = {component: sorted(load_file(file)) for component, file in files.items()}
    cases = []
    for index in range(number):
        component = choice.choice(sorted(names))
        cases.append(Case(component, choice.choice(names[component]), CHANGES[index % len(CHANGES)], index))
    return cases


def file_of(folder: Path, component: str) -> Path:
    (file,) = (folder / component).glob("*.safetensors")
    return file


def damaged(folder: Path, case: Case, into: Path) -> Path:
    """A copy of a model's folder, with links in the place of what is as it was."""
    file = file_of(folder, case.component)
    copy = into / "model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, copy_function=lambda a, b: Path(b).symlink_to(a), ignore=lambda *_: {"recipe"})
    (copy / case.component / file.name).unlink()
    save_file(changed(load_file(file), case), copy / case.component / file.name, metadata={"format": "pt"})
    return copy


def video_of(model: Path, folder: Path) -> str:
    """The SHA-256 of the frames."""
    config = tiny_config(f"model.path={model}", "sampling.steps=2", "sampling.frames=5", "cache.method=none")
    request = make_request([PROMPT], "", 3, config.sampling)
    result = Engine(load_model(config, Ranks()), Progress()).generate(request, output=folder / "video.mp4")
    assert result.report
    return str(result.report["output"]["frames_sha256"])


def fuzz(number: int, folder: Path) -> Iterator[tuple[Case, str]]:
    """Each case with "refused", "the same" or "another video", after all that a run of one rank does."""
    untouched = video_of(SMALL, folder)
    for case in sample(SMALL, number):
        copy = damaged(SMALL, case, folder)
        try:
            video = video_of(copy, folder)
        except InvalidInput as error:
            assert "\n" not in str(error) and str(error).endswith("."), case
            yield case, "refused"
        else:
            yield case, "the same" if video == untouched else "another video"


def test_a_few_damaged_copies_of_the_small_model(tmp_path: Path) -> None:
    assert "another video" not in {outcome for _, outcome in fuzz(len(CHANGES), tmp_path)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_300_damaged_copies_of_the_small_model(tmp_path: Path) -> None:
    outcomes = dict(fuzz(300, tmp_path))
    assert len(outcomes) == 300 and len({case.component for case in outcomes}) == 3
    assert [case for case, outcome in outcomes.items() if outcome == "another video"] == []
    assert sum(outcome == "refused" for outcome in outcomes.values()) > 270, "few changes change nothing"


def same_shape(folder: Path, case: Case) -> bool:
    tensors = load_file(file_of(folder, case.component))
    after = changed(tensors, case).get(case.tensor)
    if after is None or after.shape != tensors[case.tensor].shape:
        return False
    # a tensor in fp8 without a scale is a model in fp8, which is dequantised
    return after.dtype in (tensors[case.tensor].dtype, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize(
    "model",
    [
        "HunyuanVideo 1.5 I2V 480p",
        pytest.param("Wan 2.1 I2V 14B 480P", marks=pytest.mark.slow),
        pytest.param("Wan 2.2 T2V A14B", marks=pytest.mark.slow),
        pytest.param("HunyuanVideo I2V", marks=pytest.mark.slow),
    ],
)
def test_damaged_copies_of_every_family_without_sums(model: str, tmp_path: Path) -> None:
    """What names, shapes and dtypes tell is refused; nothing else is, for nothing tells."""
    folder = TINY_MODELS[model].write(tmp_path / "whole")
    for case in sample(folder, 2 * len(CHANGES)):
        copy = damaged(folder, case, tmp_path)
        try:
            check_tensors(tiny_config(f"model.path={copy}"), read_facts(copy))
        except InvalidInput:
            assert not same_shape(folder, case), case
        else:
            assert same_shape(folder, case), case
