"""TeaCache, MagCache and EasyCache decide as their authors' loops do, written out here once more without seams."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from dicache.config import CacheConfig
from dicache.counting import count_sums
from dicache.estimators.estimator import Estimate
from dicache.estimators.registry import ESTIMATORS
from dicache.gates.magcache import MagCacheGate
from dicache.gates.registry import GATES
from dicache.published.magnitudes import TABLES, interpolate_nearest
from dicache.published.polynomials import POLYNOMIALS, RETENTION_POLYNOMIALS
from dicache.steps import History
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, block, drive, head, inputs, signal, steps

STEPS = steps(20)


def forward(lane, step):
    hidden = inputs(lane, step)
    for index in range(NUM_BLOCKS):
        hidden = block(hidden, index)
    return hidden


def relative_l1(new, old):
    return ((new - old).double().abs().mean() / old.double().abs().mean()).item()


def teacache(signals, coefficients, threshold, first, last):
    """One branch of ``teacache_forward``; the last residual is reused."""
    accumulated, previous, residual_of, rows = 0.0, None, None, []
    for index, shown in enumerate(signals):
        if index < first or index >= last:
            compute, accumulated = True, 0.0
        else:
            accumulated += np.poly1d(coefficients)(relative_l1(shown, previous))
            compute = accumulated >= threshold
        value = None if index < first else accumulated
        if compute:
            accumulated, residual_of = 0.0, index
        previous = shown
        rows.append((compute, value, residual_of))
    return rows


COEFFICIENTS = (-3.0, 2.0, 0.5, 0.01)


@pytest.mark.parametrize("name", ["timestep_embedding", "timestep_modulation", "modulated_input"])
@pytest.mark.parametrize("use_ret_steps", [False, True])
@pytest.mark.parametrize("ranks", [1, 3])
def test_teacache(name, use_ret_steps, ranks):
    threshold = {"timestep_embedding": 0.4, "timestep_modulation": 0.8, "modulated_input": 1.0}[name]
    config = CacheConfig(
        method="teacache",
        threshold=threshold,
        gate={"polynomial": COEFFICIENTS, "signal": name, "use_ret_steps": use_ret_steps},
        decide="per_branch",
    )
    run = drive(config, ranks=ranks)
    for lane in (COND, UNCOND):
        shown = [signal(name, step, inputs(lane, step)) for step in STEPS]
        first, last = (5, 20) if use_ret_steps else (1, 19)
        rows = teacache(shown, COEFFICIENTS, threshold, first, last)
        for index, (compute, accumulated, source) in enumerate(rows):
            decision = run.decisions[index][lane]
            assert (decision.action != "skip") == compute, index
            if decision.accumulated is not None and index < last:
                assert decision.accumulated == pytest.approx(accumulated, rel=1e-5)
            if not compute:
                expected = inputs(lane, STEPS[index]) + forward(lane, STEPS[source]) - inputs(lane, STEPS[source])
                torch.testing.assert_close(run.outputs[index][lane], expected, rtol=1e-5, atol=1e-5)
        assert {"s", "c", "w"} == set(run.actions(lane))
    assert run.controllers[0].probe_blocks == 0


def test_what_all_tokens_share_is_counted_and_kept_once():
    config = CacheConfig(
        method="teacache", threshold=0.4, gate={"polynomial": COEFFICIENTS, "signal": "timestep_embedding"}
    )
    one, three = drive(config), drive(config, ranks=3)
    assert one.decisions == three.decisions, "one rank alone adds up, so that there is nothing to round"
    held = [controller.cache_bytes for controller in three.controllers]
    shared = 2 * 6 * 4  # of two lanes, six float32 each
    assert sum(held) == one.controllers[0].cache_bytes
    assert one.controllers[0].cache_bytes == 2 * inputs(COND, STEPS[0]).nbytes + shared


def test_a_signal_that_moves_from_nothing_is_computed():
    config = CacheConfig(
        method="teacache", threshold=9.0, gate={"polynomial": (-1.0, 1.0, 0.0), "signal": "modulated_input"}
    )
    run = drive(config, lanes=[COND], source=lambda lane, step: inputs(lane, step) * (step.index > 5))
    assert run.decisions[6][COND].action == "compute" and run.decisions[6][COND].indicator == math.inf
    assert run.actions()[1:6] == "sssss", "nothing has moved"


RATIOS = tuple(1 - 0.004 * index for index in range(15))


@pytest.mark.parametrize(("threshold", "skips"), [(0.12, 2), (0.3, 6), (0.05, 4)])
def test_magcache(threshold, skips):
    """One branch of ``magcache_forward``."""
    config = CacheConfig(method="magcache", threshold=threshold, max_consecutive_skips=skips, gate={"ratios": RATIOS})
    run = drive(config)
    # as the authors stretch it, from 15 to 20 entries
    table = np.array(RATIOS)[np.round(np.arange(20) * (14 / 19)).astype(int)]
    ratio, error, in_a_row, residual_of, seen = 1.0, 0.0, 0, None, set()
    for index in range(20):
        skip = False
        if index >= int(20 * 0.2):
            ratio *= table[index]
            in_a_row += 1
            error += abs(1 - ratio)
            assert run.decisions[index][COND].accumulated == pytest.approx(error)
            skip = error < threshold and in_a_row <= skips
            if not skip:
                ratio, error, in_a_row = 1.0, 0.0, 0
        for lane in (COND, UNCOND):
            assert (run.decisions[index][lane].action == "skip") == skip, index
            if skip:
                expected = inputs(lane, STEPS[index]) + forward(lane, STEPS[residual_of])
                expected -= inputs(lane, STEPS[residual_of])
                torch.testing.assert_close(run.outputs[index][lane], expected, rtol=1e-5, atol=1e-5)
        residual_of = residual_of if skip else index
        seen.add(skip)
    assert seen == {True, False}
    assert run.controllers[0].probe_blocks == 0
    assert all(run.controllers[0].num_sums(step, COND) == 0 for step in STEPS), "nothing is measured"
    assert run.controllers[0].cache_bytes == 2 * inputs(COND, STEPS[0]).nbytes


@pytest.mark.parametrize("length", [1, 2, 7, 28, 40, 50, 51, 99])
def test_a_table_for_another_number_of_steps_takes_the_nearest_entries(length):
    source = np.arange(50.0)
    expected = [49.0] if length == 1 else source[np.round(np.arange(length) * (49 / (length - 1))).astype(int)]
    assert interpolate_nearest(tuple(source), length) == tuple(expected)
    if length == 50:
        assert tuple(expected) == tuple(source)


def test_the_tables_are_those_that_were_published():
    """Their lengths and sums, from the authors' own lists."""
    measured = {name: [float(value) for value in table.measured.split()] for name, table in TABLES.items()}
    assert {name: (len(values), round(sum(values), 5)) for name, values in measured.items()} == {
        "Wan2.1-T2V-1.3B": (98, 95.99135),
        "Wan2.1-T2V-14B": (98, 96.0394),
        "Wan2.1-I2V-14B-480P": (78, 75.9879),
        "Wan2.1-I2V-14B-720P": (78, 76.11605),
        "Wan2.2-T2V-A14B": (78, 75.773),
        "Wan2.2-I2V-A14B": (78, 75.56108),
        "Wan2.2-TI2V-5B": (98, 96.30585),
        "Wan2.2-TI2V-5B-image": (98, 96.23607),
        "HunyuanVideo-544p": (49, 49.72147),
        "HunyuanVideo-720p": (49, 49.73865),
    }
    # branches take turns, and the first entry of each is 1
    ratios = TABLES["Wan2.1-T2V-14B"].ratios(50)
    assert ratios["cond"][:3] == (1.0, 1.02504, 1.00025) and ratios["cond"][-1] == 0.86111
    assert ratios["uncond"][:3] == (1.0, 1.03017, 1.00251) and ratios["uncond"][-1] == 0.86189
    hunyuan = TABLES["HunyuanVideo-720p"].ratios(50)["cond"]
    assert hunyuan[:3] == (1.0, 1.0754, 1.27807) and hunyuan[-1] == 0.75456


@pytest.mark.parametrize("name", TABLES)
def test_a_published_table_skips_about_as_its_authors_say(name):
    """E012K4R02 and E024K6R02 are said to be 2 to 3 times as fast; Wan 2.2 has thresholds of its own."""
    config = CacheConfig(method="magcache", threshold=0.06 if "2.2" in name else 0.12, max_consecutive_skips=4)
    actions = drive(config, num_steps=50, lanes=[COND], published=[name]).actions()
    assert 50 / 3.3 < 50 - actions.count("s") < 50 / 1.3
    assert actions[:10].replace("w", "") == "", "retention_ratio 0.2"
    assert "sssss" not in actions, "K is 4"


def test_two_transformers_keep_what_their_authors_keep():
    """int(ratio * steps) leading ones of the first and one more of the second; with an image, all of the first."""
    high, low = range(0, 13), range(13, 40)
    config = CacheConfig(method="magcache", threshold=9.0, warmup_ratio=0.4, max_consecutive_skips=99)
    text = [drive(config, num_steps=40, span=s, published=["Wan2.2-T2V-A14B"]).actions() for s in (high, low)]
    assert text == ["w" * 5 + "s" * 8, "w" * 11 + "s" * 16]
    image = [drive(config, num_steps=40, span=s, published=["Wan2.2-I2V-A14B"]).actions() for s in (high, low)]
    assert image == ["w" * 13, "w" * 10 + "s" * 17]


def test_an_error_at_the_threshold():
    """HunyuanVideo's code skips at it, Wan's computes."""
    history = History(COND, STEPS[:1], 1)
    for inclusive in (False, True):
        gate = MagCacheGate(0.25, {"cond": (1.0, 0.75)}, inclusive)
        assert gate.vote(STEPS[1], history, {}, Estimate((1.0,))).skip == inclusive


def easycache(threshold, retained, lane):
    """``easycache_forward`` for one branch alone, which decides: on the cond branch of raw latents and velocities."""
    accumulated, k, previous, last, cached, rows = 0.0, None, None, None, None, []
    for step in STEPS:
        x = signal("latents", step, inputs(lane, step)).double()
        compute, shown = True, None
        if retained <= step.index < 19 and k is not None:
            accumulated += k * (x - previous).abs().mean().item() / last[1].abs().mean().item()
            shown, compute = accumulated, accumulated >= threshold
        previous = x
        if compute:
            accumulated = 0.0
            v = head(forward(lane, step)).double()
            if last is not None:
                k = ((v - last[1]).abs().mean() / (x - last[0]).abs().mean()).item()
            last, cached = (x, v), v - x
        rows.append((compute, shown, x + cached))
    return rows


@pytest.mark.parametrize("retained", [0, 5])
@pytest.mark.parametrize("ranks", [1, 2])
def test_easycache(retained, ranks):
    run = drive(CacheConfig(method="easycache", threshold=0.4, warmup_steps=retained), ranks=ranks)
    rows = easycache(0.4, retained, COND)
    sources = None
    for index, (compute, accumulated, velocity) in enumerate(rows):
        decision = run.decisions[index][COND]
        assert (decision.action != "skip") == compute, index
        if index != 19:
            assert decision.accumulated == (None if accumulated is None else pytest.approx(accumulated, rel=1e-5))
        torch.testing.assert_close(run.outputs[index][COND].double(), velocity, rtol=1e-5, atol=1e-5)
        # the other branch does the same, from its own latents
        other = run.decisions[index][UNCOND]
        assert (other.action == "skip") == (decision.action == "skip") and other.indicator is None
        x = signal("latents", STEPS[index], inputs(UNCOND, STEPS[index]))
        if compute:
            sources = head(forward(UNCOND, STEPS[index])) - x
        torch.testing.assert_close(run.outputs[index][UNCOND], x + sources, rtol=1e-5, atol=1e-5)
    assert {"s", "c"} <= set(run.actions())
    assert run.controllers[0].probe_blocks == 0
    # latents: the last, and of two computed steps; two velocities; what is reused
    if ranks == 1:
        assert run.controllers[0].cache_bytes == 2 * 6 * head(inputs(COND, STEPS[0])).nbytes


def test_the_other_branch_would_decide_otherwise():
    assert [row[0] for row in easycache(0.4, 5, COND)] != [row[0] for row in easycache(0.4, 5, UNCOND)]


def test_the_polynomials_are_those_that_were_published():
    """Their values at a change of 0.05, from the authors' own lists: a slip in a sign or an exponent moves them."""
    assert {name: round(polynomial(0.05), 6) for name, polynomial in POLYNOMIALS.items()} == {
        "Wan2.1-T2V-1.3B": 0.077381,
        "Wan2.1-T2V-14B": -4.091814,
        "Wan2.1-I2V-14B-480P": -0.013561,
        "Wan2.1-I2V-14B-720P": -0.02798,
        "HunyuanVideo": 0.062038,
    }
    assert {name: round(polynomial(0.05), 6) for name, polynomial in RETENTION_POLYNOMIALS.items()} == {
        "Wan2.1-T2V-1.3B": 0.141898,
        "Wan2.1-T2V-14B": 0.218949,
        "Wan2.1-I2V-14B-480P": 0.13956,
        "Wan2.1-I2V-14B-720P": 0.174313,
    }


# the gate's own keys, and the shared ones, with which the toy computes some steps and skips others
SETTINGS = {
    "first_block": ({}, {"threshold": 0.2}),
    "teacache": ({"polynomial": COEFFICIENTS, "signal": "modulated_input"}, {"threshold": 1.0}),
    "magcache": ({"ratios": RATIOS}, {"threshold": 0.12}),
    "easycache": ({}, {"threshold": 0.4, "warmup_steps": 2}),
    "innovation": ({}, {"threshold": 0.01}),
    "interval": ({"interval": 3}, {}),
    "list": ({"compute_steps": (0, 1, 5, 9, 12, 18)}, {}),
    "probe": ({}, {"threshold": 0.25}),
}
OF_A_CALIBRATION = {"calibrated", "fitted"}  # in test_calibrated.py


def test_all_gates_are_tried():
    assert SETTINGS.keys() == GATES.keys() - OF_A_CALIBRATION


@pytest.mark.parametrize("gate", SETTINGS)
@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name not in OF_A_CALIBRATION])
def test_any_gate_goes_with_any_estimator(gate, estimator):
    own, shared = SETTINGS[gate]
    section = {"gate": {"name": gate, **own}, "estimator": estimator, **shared}
    if GATES[gate].needs_weights_that_add_up and not ESTIMATORS[estimator].weights_add_up:
        with pytest.raises(ValidationError, match="do not add up to 1"):
            CacheConfig.model_validate(section)
        return
    config, seen = CacheConfig.model_validate(section), []
    run = drive(config, tamper=lambda step, sums: seen.append(sum(map(len, sums.values()))) or sums)
    assert {"s", "c"} <= set(run.actions())
    actions = {(i, lane, 0): d.action for i, decided in enumerate(run.decisions) for lane, d in decided.items()}
    assert count_sums(config, (COND, UNCOND), 20, NUM_BLOCKS, range(20), actions) == tuple(seen)
    skipped = [d[COND] for d in run.decisions if d[COND].action == "skip"]
    if ESTIMATORS[estimator].weights_add_up:
        assert all(sum(decision.coefficients) == pytest.approx(1.0) for decision in skipped), "what stays, stays"
    assert all(y[COND].isfinite().all() for y in run.outputs)
    if (gate, estimator) in (("magcache", "taylor"), ("list", "foca"), ("interval", "reuse")):
        assert run.controllers[0].probe_blocks == 0
    if estimator in ("alignment", "projection", "ridge"):
        assert run.controllers[0].probe_blocks == 1, "it looks at the probe, whatever the gate does"
