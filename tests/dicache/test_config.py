"""What a user may and may not say about the cache."""

import pytest
from pydantic import ValidationError

from dicache.config import CacheConfig
from dicache.controller import Controller
from dicache.estimators.registry import ESTIMATORS
from dicache.gates.registry import GATES
from dicache.overrides import override
from dicache.steps import Lane
from tests.support.toy import drive


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"warmup_ratio": 1.5},
        {"warmup_ratio": -0.1},
        {"probe_depth": 0},
        {"estimator": {"gamma_min": -1.0}},
        {"estimator": {"gamma_min": 3.0}},
        {"estimator": {"gamma_max": 0.5}},
        {"estimator": {"gamma_max": float("inf")}},
        {"gate": {"at_threshold": "guess"}},
        {"decide": "apart"},
        {"max_consecutive_skips": -1},
        {"max_skips": -1},
        {"gate": {"name": "interval", "interval": 0}},
        {"gate": {"name": "list", "compute_steps": (0, -1)}},
        {"estimator": "guess"},
        {"method": "teleport"},
        {"method": "none", "replay": "run.json"},
        {"thresold": 0.2},
        {"gate": "guess"},
        {"gate": {"name": "guess"}},
        {"gate": {"guess": 1}},
        {"gate": 3},
        {"gate": ["probe"]},
        {"estimator": {"name": ["ridge"]}},
        {"anchor": "output"},
        {"warmup_steps": -1},
        {"method": "taylorseer", "estimator": {"order": 0}},
        {"method": "hicache", "estimator": {"order": 3}},
        {"method": "taylorseer", "estimator": {"clock": "wall"}},
        {"method": "hicache", "estimator": {"contraction": 0.0}},
        {"estimator": {"name": "ridge", "shrinkage": 0.0}},
        {"estimator": {"name": "ridge", "differences": 3}},
        {"method": "magcache", "gate": {"ratios": ()}},
        {"method": "magcache", "gate": {"ratios": (1.0, 0.0)}},
        {"method": "magcache", "gate": {"ratios": (1.0, float("nan"))}},
        {"method": "teacache", "gate": {"polynomial": (), "signal": "modulated_input"}},
        {"method": "teacache", "gate": {"polynomial": (float("inf"),), "signal": "modulated_input"}},
        {"method": "teacache", "gate": {"polynomial": (1.0,), "signal": "noise"}},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        CacheConfig(**bad)


def test_defaults_are_the_papers():
    config = CacheConfig()
    assert (config.method, config.threshold, config.warmup_ratio, config.probe_depth) == ("dicache", 0.2, 0.2, 1)
    assert (config.estimator.gamma_min, config.estimator.gamma_max, config.decide) == (1.0, 2.0, "together")
    assert config.gate.at_threshold == "compute"


def test_every_field_says_why():
    assert all(field.description for field in CacheConfig.model_fields.values())
    for settings in (*GATES.values(), *ESTIMATORS.values()):
        assert all(field.description for name, field in settings.model_fields.items() if name != "name"), settings


def test_the_method_alone_can_be_overridden():
    written = {"gate": {"name": "list", "compute_steps": [1, 2]}, "estimator": "taylor", "anchor": "nothing"}
    CacheConfig.model_validate(written)
    assert override(written, [("method", "none")]) == ({"method": "none"}, [])


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError):
        CacheConfig().threshold = 0.3


def test_gamma_range_is_refused_with_its_numbers():
    with pytest.raises(
        ValidationError, match=r"cache\.estimator\.gamma_max is 1\.2, which is below cache\.estimator\.gamma_min 1\.5"
    ):
        CacheConfig(estimator={"gamma_min": 1.5, "gamma_max": 1.2})


def test_what_is_left_out_is_as_its_authors_publish_it():
    def of(method, **given):
        config = CacheConfig(method=method, **given)
        warmup = config.warmup_ratio if config.warmup_steps is None else config.warmup_steps
        return config.threshold, warmup, config.max_consecutive_skips, config.force_last

    assert of("fbcache") == (0.05, 0.0, None, False)
    assert of("dbcache") == of("dbcache", gate="first_block") == (0.08, 8, None, False)
    assert of("magcache") == (0.12, 0.2, 2, False)
    assert of("teacache") == (0.1, 1, None, True)
    assert of("teacache", gate={"use_ret_steps": True}) == (0.1, 5, None, False)
    assert of("easycache") == (0.05, 10, None, True)
    assert of("innovation") == of("dicache", gate="innovation") == (0.005, 3, None, False)
    assert of("dicache", gate="magcache") == (0.12, 0.2, 2, False), "thresholds belong to the gate"
    assert of("easycache", gate="magcache") == (0.12, 0.2, 2, False)
    assert of("taylorseer", gate="interval") == of("taylorseer") == (None, 3, None, False), "it has no threshold"
    assert CacheConfig(method="hicache", gate="easycache").estimator.order == 2, "the order belongs to the estimator"
    assert of("easycache", threshold=0.1, warmup_ratio=0.5, force_last=False) == (0.1, 0.5, None, False)
    assert of("easycache", warmup_ratio=0.5, warmup_steps=3)[1] == 3
    series = {m: CacheConfig(method=m) for m in ("taylorseer", "hicache", "abcache", "foca")}
    assert {m: (c.gate.interval, c.warmup_steps, getattr(c.estimator, "order", None)) for m, c in series.items()} == {
        "taylorseer": (5, 3, 1),
        "hicache": (5, 3, 2),
        "abcache": (6, 5, 1),
        "foca": (5, 3, None),
    }


def test_a_gate_and_an_estimator_take_the_place_of_the_methods_own():
    assert (CacheConfig().gate_name, CacheConfig().estimator_name) == ("probe", "alignment")
    mixed = CacheConfig(method="magcache", estimator="ridge")
    assert (mixed.gate_name, mixed.estimator_name) == ("magcache", "ridge")
    mixed = CacheConfig(method="taylorseer", gate="easycache")
    assert (mixed.gate_name, mixed.estimator_name) == ("easycache", "taylor")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"gate": "list"}, r"cache\.gate is list, but there is no list: give cache\.gate\.compute_steps"),
        (
            {"method": "teacache", "gate": {"polynomial": (1.0, 0.0)}},
            r"cache\.gate\.polynomial is \(1\.0, 0\.0\), but cache\.gate\.signal is left out",
        ),
        (
            {"method": "teacache", "gate": {"signal": "modulated_input"}},
            r"cache\.gate\.signal is modulated_input, but cache\.gate\.polynomial is left out",
        ),
        ({"method": "easycache", "decide": "per_branch"}, r"cache\.decide is per_branch, but easycache decides"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_values(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        CacheConfig(**given)


def controller(names, /, **given):
    return Controller(CacheConfig(**given), [Lane(0, "cond")], 50, 3, published=names)


@pytest.mark.parametrize(
    ("given", "names", "sentence"),
    [
        (
            {"method": "magcache"},
            (),
            r"The gate of the cache is magcache, whose tables are published for Wan2\.1-T2V-1\.3B, .*Video-720p, "
            r"and this model is none of these: use the method dicache, .* or give cache\.gate\.ratios of your own",
        ),
        (
            {"method": "teacache"},
            ("Wan2.2-T2V-A14B",),
            r"teacache, whose polynomials are published for Wan2\.1-T2V.* give cache\.gate\.polynomial of your own",
        ),
        (
            {"method": "teacache", "gate": {"use_ret_steps": True}},
            ("HunyuanVideo",),
            "and this model is none of these",
        ),
        (
            {"method": "magcache"},
            ("Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P"),
            r"cache\.gate\.published is left out, but magcache has different tables for Wan2\.1-I2V-14B-480P and "
            r"Wan2\.1-I2V-14B-720P, and this model may be either: name one",
        ),
        (
            {"method": "magcache", "gate": {"published": "Wan2.1-T2V-14B"}},
            ("Wan2.1-T2V-1.3B",),
            r"cache\.gate\.published is 'Wan2\.1-T2V-14B', for which magcache has no tables that fit this model: "
            r"use Wan2\.1-T2V-1\.3B",
        ),
        (
            {"method": "magcache", "gate": {"published": "Wan2.1-T2V-14B"}},
            (),
            r"fit this model: leave it out and give cache\.gate\.ratios of your own",
        ),
    ],
)
def test_numbers_that_were_published_for_another_model_are_refused(given, names, sentence):
    with pytest.raises(ValueError, match=sentence):
        controller(names, **given)
    controller(names)  # other methods do not need them


def test_numbers_that_were_published_for_this_model_are_found():
    names = ("Wan2.1-I2V-14B-480P", "Wan2.1-I2V-14B-720P")
    for method in ("teacache", "magcache"):
        controller(names, method=method, gate={"published": names[1]})
        controller(("HunyuanVideo", "HunyuanVideo-544p"), method=method)
    assert controller(("HunyuanVideo",), method="teacache").step_signals == ("modulated_input",)
    assert controller(("Wan2.1-T2V-14B",), method="teacache").step_signals == ("timestep_embedding",)
    retention = controller(("Wan2.1-T2V-14B",), method="teacache", gate={"use_ret_steps": True})
    assert retention.step_signals == ("timestep_modulation",)


def test_an_interval_is_counted_from_the_end_of_the_warm_up():
    """TaylorSeer computes the first steps, and then every n-th after the last of them."""

    def actions(**given):
        return drive(CacheConfig(method="interval", **given), num_steps=12).actions()

    assert actions(gate={"interval": 4}) == "cssscssscsss"
    assert actions(gate={"interval": 4}, warmup_steps=1) == "wssscssscsss"
    assert actions(gate={"interval": 4}, warmup_steps=3) == "wwwssscssscs"
    assert actions(gate={"interval": 4}, warmup_ratio=0.25) == "wwwssscssscs"
    assert actions(gate={"interval": 4}, warmup_steps=99) == "w" * 12
    assert actions(gate={"name": "list", "compute_steps": (0, 5)}) == "cssss" + "cssssss", "a list is exact"
