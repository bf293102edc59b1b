"""A calibration measured and used on ranks together is that of one rank."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicache.calibration.placement import growth, place_steps
from engine.checks.preflight import preflight
from engine.config import Config
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, Outputs, Task, make_request
from launch.calibration.file import build, write
from launch.calibration.job import CalibrateJob, CalibrateOptions, prepare_calibration
from launch.calibration.trials import Trials
from launch.calibration.velocities import measure_products
from launch.sweep.job import SweepOptions, prepare_sweep
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.checkpoints import write_published_wan
from tests.support.gang import Gang
from tests.support.small_model import CONFIG, PROMPT, tiny_config

SIZE = ("sampling.frames=17", "sampling.height=48", "sampling.width=80", "model.dtype=float32", "runtime.device=cpu")


def request_of(config: Config, seed: int = 7) -> GenerationRequest:
    return make_request([PROMPT], "", seed, config.sampling)


def measure(ranks: Ranks, config: Config) -> dict[str, Any]:
    return measure_products(Engine(load_model(config, ranks), Progress()), request_of(config))[0]


def generate(ranks: Ranks, config: Config) -> tuple[torch.Tensor, str]:
    result = Engine(replace(load_model(config, ranks), config=config), Progress()).generate(request_of(config))
    rows = (result.report or {"steps": []})["steps"]
    return result.latents, "".join(row["action"][0] for row in rows if row["branch"] == "cond")


def test_measured_and_used_on_two_and_three_ranks(gang: Gang, tmp_path: Path) -> None:
    model = write_published_wan(tmp_path / "wan", "Wan2.1-T2V-14B")
    overrides = (f"model.path={model}", "sampling.steps=12", *SIZE)
    prompts, output = tmp_path / "prompts.txt", tmp_path / "cal.json"
    prompts.write_text(PROMPT + "\n")
    job: CalibrateJob = prepare_calibration(CalibrateOptions(str(CONFIG), prompts, output, overrides), Place(1))

    alone = measure(Ranks(), job.config)
    products = np.array(alone["products"])
    for degrees in (Degrees(ring=3), Degrees(cfg=2)):
        for shared in gang.run(measure, degrees, job.config):
            np.testing.assert_allclose(shared["products"], products, rtol=1e-4)
            summed = ("products", "ratios", "changes")
            assert {**shared, **dict.fromkeys(summed)} == {**alone, **dict.fromkeys(summed)}
            for branch in ("cond", "uncond"):
                np.testing.assert_allclose(shared["ratios"][branch], alone["ratios"][branch], rtol=1e-5)
            for name in ("timestep_embedding", "timestep_modulation"):
                np.testing.assert_allclose(shared["changes"][name], alone["changes"][name], rtol=1e-4)
    assert alone["branches"] == ["cond", "uncond"]
    assert sum(alone["sampler"]) == pytest.approx(alone["sigmas"][0], rel=1e-3), "of noise, nothing is left"

    write(job, build(job, [alone]))
    config = tiny_config(*overrides[:-2], "cache.method=calibrated", f"cache.calibration={output}")
    unbraked = config.model_copy(update={"cache": config.cache.model_copy(update={"brake": None})})
    _, actions = generate(Ranks(), unbraked)
    sizes = [weight * growth(sigma) for weight, sigma in zip(alone["sampler"], alone["sigmas"], strict=True)]
    placed = place_steps(products.reshape(12, 2, 12, 2), (5.0, -4.0), sizes)[actions.count("c")]
    assert [index for index, action in enumerate(actions) if action == "c"] == list(placed.compute)
    assert actions.count("s") == 8, "65% of 12, to the nearest"
    latents, actions = generate(Ranks(), config)
    assert 4 <= actions.count("s") <= 8, "the brake measures"
    for degrees in (Degrees(ring=3), Degrees(ulysses=2), Degrees(cfg=2)):
        shared = gang.run(generate, degrees, config)
        assert shared[0][1] == actions
        for ours, _ in shared:
            assert torch.equal(ours, shared[0][0])
            assert (ours - latents).abs().max() < 1e-5 * latents.abs().max()

    for change in ("sampling.shift=5.0", "sampling.guidance=4.0", "sampling.scheduler=euler", "sampling.width=64"):
        other = tiny_config(*overrides[:-2], "cache.method=calibrated", f"cache.calibration={output}", change)
        message = refused(lambda other=other: preflight(other, [Task(request_of(other), Outputs())], Place(1)))
        assert change.partition("=")[0] in message and str(output) in message and "\n" not in message
    worded = request_of(config).model_copy(update={"negative_prompt": "blurred"})
    assert "request.negative_prompt was '' and is 'blurred'" in refused(
        lambda: preflight(config, [Task(worded, Outputs())], Place(1))
    )
    message = refused(
        lambda: prepare_sweep(
            SweepOptions(
                str(CONFIG),
                prompts,
                tmp_path / "sweep",
                methods="calibrated",
                overrides=(*overrides, f"cache.calibration={output}"),
            ),
            Place(1),
        )
    )
    assert PROMPT in message and "--prompts" in message


LISTS = ((0, 1, 2, 5, 8), (0, 2, 4, 6, 9))


def try_out(ranks: Ranks, config: Config, calibration: str, file: Path) -> list[list[float] | None]:
    """Errors of lists, on the first rank; and then of the first one again, with what has been kept."""
    engine = Engine(load_model(config, ranks), Progress())
    requests = [request_of(config, seed) for seed in (7, 8)]
    references = [measure_products(engine, request)[1] for request in requests]
    trials = Trials(engine, requests, Progress(), references, file)
    if ranks.rank > 0:
        trials.serve()
        return []
    found = [trials.errors(calibration, compute, None) for compute in LISTS]
    trials.end()
    again = Trials(engine, requests, Progress(), [torch.zeros(1)] * 2, file)  # which would be another error
    return [*found, again.errors(calibration, LISTS[0], None), again.errors(calibration, LISTS[0], [0.0, 0.0])]


def test_lists_are_tried_out_on_ranks_as_on_one(gang: Gang, tmp_path: Path) -> None:
    model = write_published_wan(tmp_path / "wan", "Wan2.1-T2V-14B")
    overrides = (f"model.path={model}", "sampling.steps=12", *SIZE)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPT + "\n")
    job = prepare_calibration(CalibrateOptions(str(CONFIG), prompts, tmp_path / "cal.json", overrides), Place(1))
    calibration = build(job, [measure(Ranks(), job.config)])
    write(job, calibration)
    alone = try_out(Ranks(), job.config, calibration.model_dump_json(), tmp_path / "alone.json")
    first, second, again, given_up = alone
    assert first == again and given_up is None and first != second
    for errors, compute in zip((first, second), LISTS, strict=True):
        steps = f"cache.gate.compute_steps={list(compute)}"
        cache = ("cache.method=calibrated", "cache.gate=list", steps, f"cache.calibration={job.output}")
        latents = []
        for settings in (("cache.method=none",), cache):
            config = tiny_config(*overrides[:-2], *settings)
            latents.append(generate(Ranks(), config)[0])
        assert errors and errors[0] == pytest.approx(float((latents[1] - latents[0]).square().mean().sqrt()), rel=1e-4)
    together = gang.run(try_out, Degrees(cfg=2), job.config, calibration.model_dump_json(), tmp_path / "together.json")[
        0
    ]
    for ours, theirs in zip(together[:3], alone[:3], strict=True):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-3)


def refused(what: Any) -> str:
    try:
        what()
    except InvalidInput as error:
        return str(error)
    raise AssertionError("it was not refused")
