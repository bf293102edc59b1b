"""I2 for HunyuanVideo with an image: the schedule and the latents of one rank, on two and on four, with weights shared
out, and after a run that broke off."""

from pathlib import Path
from typing import Any

import pytest

from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.broken_off import BreaksOff, BrokenOff
from tests.support.gang import Gang
from tests.support.hunyuan_images import (
    CONCAT,
    KINDS,
    LONG,
    REPLACE,
    SHORT,
    Case,
    asked,
    configured,
    generate,
    write_models,
    write_pictures,
)
from tests.support.parity import difference

CACHED = ("cache.method=dicache", "cache.threshold=0.1", "cache.estimator.gamma_max=1.5", "sampling.steps=12")
LAYOUTS = {
    REPLACE: [Degrees(ulysses=2), Degrees(ring=2), Degrees(ulysses=2, ring=2)],
    CONCAT: [Degrees(ring=2), Degrees(cfg=2), Degrees(cfg=2, ulysses=2), Degrees(ulysses=2, ring=2)],
}


def layout_cases(kind: str, degrees: Degrees, model: Path, image: Path) -> list[Case]:
    """Both lengths of prompt, without the cache and with it; two branches where the layout splits them."""
    guidance = ("sampling.guidance=3",) if degrees.cfg == 2 else ()
    cases = []
    for prompt, cache in ((SHORT, ()), (LONG, ()), (LONG, CACHED)):
        config = configured(model, *guidance, *cache)
        cases.append((config, asked(config, image, prompt)))
    return cases


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def alone(models: dict[str, Path], files: dict[str, Path]) -> dict[tuple[str, int], list[Result]]:
    """Of one rank, by kind and number of branches."""
    layouts = {(kind, degrees.cfg): degrees for kind in KINDS for degrees in LAYOUTS[kind]}
    return {
        key: generate(Ranks(), layout_cases(key[0], degrees, models[key[0]], files["lying"]))
        for key, degrees in layouts.items()
    }


def actions(report: dict[str, Any] | None) -> list[str]:
    assert report
    return [row["action"] for row in report["steps"]]


@pytest.mark.parametrize(("kind", "degrees"), [pytest.param(k, d, id=f"{k}-{d}") for k in KINDS for d in LAYOUTS[k]])
def test_several_ranks_decide_and_make_the_same(
    gang: Gang,
    kind: str,
    degrees: Degrees,
    models: dict[str, Path],
    files: dict[str, Path],
    alone: dict[tuple[str, int], list[Result]],
) -> None:
    expected = alone[kind, degrees.cfg]
    assert set(actions(expected[-1].report)) == {"warmup", "skip", "compute"}, actions(expected[-1].report)
    by_rank = gang.run(generate, degrees, layout_cases(kind, degrees, models[kind], files["lying"]))
    for rank, results in enumerate(by_rank):
        for result, reference in zip(results, expected, strict=True):
            assert difference(result.latents, reference.latents) <= 1e-5
            if rank == 0:
                assert actions(result.report) == actions(reference.report)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_shared_out_make_the_same(
    gang: Gang, kind: str, models: dict[str, Path], files: dict[str, Path], alone: dict[tuple[str, int], list[Result]]
) -> None:
    config = configured(models[kind], "parallel.shard_weights=true")
    case = config, asked(config, files["lying"], LONG)
    for (result,) in gang.run(generate, Degrees(ulysses=2), [case]):
        assert difference(result.latents, alone[kind, 1][1].latents) <= 1e-5


def break_off_and_resume(ranks: Ranks, case: Case, folder: Path) -> Result:
    config, request = case
    model = load_model(config, ranks)
    with pytest.raises(BrokenOff):
        Engine(model, BreaksOff(7)).generate(request, checkpoint=folder)
    return Engine(model, BreaksOff(None)).generate(request, checkpoint=folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_makes_the_same(
    gang: Gang,
    kind: str,
    models: dict[str, Path],
    files: dict[str, Path],
    alone: dict[tuple[str, int], list[Result]],
    tmp_path: Path,
) -> None:
    """What the image adds to the noise it adds once."""
    config = configured(models[kind], *CACHED, "checkpoint.every=2")
    case = config, asked(config, files["lying"], LONG)
    expected = alone[kind, 1][-1]
    results = gang.run(break_off_and_resume, Degrees(ulysses=2), case, tmp_path)
    assert results[0].report["resumed_at"] == [6]
    assert actions(results[0].report) == actions(expected.report)
    for result in results:
        assert difference(result.latents, expected.latents) <= 1e-5
