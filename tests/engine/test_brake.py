"""The small model with its own calibration, and with one that is wrong on purpose."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dicache.calibration.file import read_calibration
from engine.config_file import load_config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.shuffled import shuffled
from tests.support.small_model import CONFIG

PROMPT = "a red square moving up on a brown background"  # the calibration has not seen it


@pytest.mark.timeout(300)
def test_a_calibration_of_other_steps_is_caught(tmp_path: Path) -> None:
    """Told of the wrong steps, the brake computes nearly all, and the latents are within 10 dB of what the right
    calibration gives, here 6; without it they are 28 dB away."""
    shipped = load_config(CONFIG).cache.calibration
    assert shipped is not None
    wrong = tmp_path / "wrong.json"
    wrong.write_text(shuffled(read_calibration(shipped)).model_dump_json())
    cases = {
        "uncached": ("cache.method=none",),
        "right": ("cache.method=calibrated",),
        "caught": ("cache.method=calibrated", f"cache.calibration={wrong}"),
        "believed": ("cache.method=calibrated", f"cache.calibration={wrong}", "cache.gate.brake=null"),
    }
    model = load_model(load_config(CONFIG, ["model.dtype=float32", "runtime.device=cpu"]), Ranks())
    latents, computed = {}, {}
    for name, settings in cases.items():
        config = load_config(CONFIG, ["model.dtype=float32", "runtime.device=cpu", *settings])
        request = make_request([PROMPT], "", 1, config.sampling)
        result = Engine(replace(model, config=config), Progress()).generate(request)
        assert result.report is not None
        latents[name], computed[name] = result.latents, result.report["totals"]["computed"] // 2
    error = {
        name: float((found - latents["uncached"]).square().mean().sqrt())
        for name, found in latents.items()
        if name != "uncached"
    }
    decibels = {name: 20 * torch.log10(torch.tensor(error[name] / error["right"])).item() for name in error}
    assert computed["right"] <= 20 and computed["believed"] == computed["right"]
    assert computed["caught"] > 40, "time is what it costs"
    assert decibels["caught"] < 10 < decibels["believed"] - 5
