"""What a user may and may not say about the cache."""

import pytest
from pydantic import ValidationError

from dicache.config import CacheConfig


@pytest.mark.parametrize(
    "bad",
    [
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"threshold": float("inf")},
        {"warmup_ratio": 1.5},
        {"warmup_ratio": -0.1},
        {"probe_depth": 0},
        {"gamma_min": -1.0},
        {"gamma_min": 3.0},
        {"gamma_max": 0.5},
        {"gamma_max": float("inf")},
        {"at_threshold": "guess"},
        {"decide": "apart"},
        {"max_consecutive_skips": -1},
        {"interval": 0},
        {"compute_steps": (0, -1)},
        {"estimator": "guess"},
        {"method": "teleport"},
        {"method": "none", "replay": "run.json"},
        {"thresold": 0.2},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        CacheConfig(**bad)


def test_defaults_are_the_papers():
    config = CacheConfig()
    assert (config.method, config.threshold, config.warmup_ratio, config.probe_depth) == ("dicache", 0.2, 0.2, 1)
    assert (config.gamma_min, config.gamma_max, config.decide) == (1.0, 2.0, "together")
    assert config.at_threshold == "compute"


def test_every_field_says_why():
    assert all(field.description for field in CacheConfig.model_fields.values())


def test_the_method_alone_can_be_overridden():
    CacheConfig(method="none", compute_steps=(1, 2), estimator="taylor", threshold=0.3)


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError):
        CacheConfig().threshold = 0.3


def test_gamma_range_is_refused_with_its_numbers():
    with pytest.raises(ValidationError, match=r"cache\.gamma_max is 1\.2, which is below cache\.gamma_min 1\.5"):
        CacheConfig(gamma_min=1.5, gamma_max=1.2)
