"""Keys of one gate or estimator: where they stand, which are refused, and what they were called before."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dicache.config import CacheConfig
from dicache.estimators.registry import ESTIMATORS
from dicache.gates.registry import GATES
from dicache.overrides import override
from dicache.pairs import PAIRS
from dicache.section import KINDS, MOVED, flatten, nest
from engine.config_file import load_config
from engine.errors import InvalidInput

OLD_SECTIONS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("old_sections.json").read_text())
"""What version 0.1.0 wrote into checkpoints and queues: all keys on one level, those without effect among them."""
OWN: dict[str, tuple[str, Any]] = {
    "published": ("teacache", "Wan2.1-T2V-14B"),
    "use_ret_steps": ("teacache", True),
    "polynomial": ("teacache", (1.0, 0.5)),
    "signal": ("teacache", "modulated_input"),
    "ratios": ("magcache", (1.0, 0.9)),
    "at_threshold": ("dicache", "skip"),
    "steps_skipped": ("calibrated", 0.5),
    "brake": ("calibrated", 3.0),
    "release": ("calibrated", 0.5),
    "interval": ("taylorseer", 4),
    "compute_steps": ("interval", (0, 3)),
    "gamma_min": ("dicache", 0.5),
    "gamma_max": ("innovation", 1.5),
    "order": ("taylorseer", 2),
    "clock": ("taylorseer", "sigma"),
    "contraction": ("hicache", 0.7),
    "shrinkage": ("ridge", 0.1),
    "differences": ("ridge", 1),
}
"""For each key that has moved a method, or an estimator, that uses it, and a value that is not its default."""
NEEDED = {"polynomial": {"signal": "modulated_input"}, "signal": {"polynomial": [1.0]}}


def section_for(key: str) -> dict[str, Any]:
    """A section without the key, whose method uses it."""
    owner, _ = OWN[key]
    chosen: dict[str, Any] = {"estimator": owner} if owner in ESTIMATORS else {"method": owner}
    return chosen | ({"calibration": "/cal.json"} if owner == "calibrated" else {})


def test_last_blocks_belong_to_the_method_that_they_were_said_for() -> None:
    written = {"method": "dbcache", "threshold": 0.2, "last_blocks": 2}
    assert override(written, [("threshold", 0.3)])[0] == {**written, "threshold": 0.3}
    for method in ("fbcache", "taylorseer", "none"):
        assert override(written, [("method", method)])[0] == {"method": method}
    with pytest.raises(ValidationError, match=r"cache\.last_blocks is 2, but cache\.method is none"):
        CacheConfig.model_validate({"method": "none", "last_blocks": 2})
    with pytest.raises(ValidationError, match=r"cache\.last_blocks is 2, but cache\.method is auto"):
        CacheConfig.model_validate({"method": "auto", "last_blocks": 2})
    for section in (written, {"method": "none"}):
        config = CacheConfig.model_validate(section)
        assert CacheConfig.model_validate(config.model_dump(mode="json")) == config, "as a report gives it back"


def test_a_method_named_for_a_section_of_an_earlier_version_has_its_own_settings() -> None:
    """Such a section has every key, so also an interval and an order, which the new method would use."""
    for written in PAIRS:
        for method in PAIRS:
            if method not in (written, "calibrated"):  # which needs a calibration
                section, lines = override(OLD_SECTIONS[written], [("method", method)])
                cache, published = CacheConfig.model_validate(section), CacheConfig.model_validate({"method": method})
                different = {key for key in CacheConfig.model_fields if getattr(cache, key) != getattr(published, key)}
                assert different <= {"calibration"} and not lines, (written, method, different)
    flat = {"method": "dicache", "interval": 3, "order": 1, "contraction": 0.7}
    kept, lines = override(flat, [("method", "hicache")])
    assert kept == {"method": "hicache", "estimator": {"contraction": 0.7}} and len(lines) == 3


def test_a_section_that_was_chosen_is_open_again_once_a_key_is_overridden() -> None:
    """As `lockstep config` prints one: with the reasons, and nothing left open."""
    written = {"method": "innovation", "threshold": 0.014, "chosen": "quality draft: threshold 0.014"}
    assert override(written, [])[0] == written
    assert override(written, [("quality", "high")])[0] == {"method": "innovation", "quality": "high"}
    assert override(written, [("method", "auto")])[0] == {"method": "auto"}
    assert override(written, [("threshold", 0.2)])[0] == {"method": "innovation", "threshold": 0.2}
    assert override(written, [("threshold", 0.2), ("chosen", "by me")])[0] == {
        **written,
        "threshold": 0.2,
        "chosen": "by me",
    }
    for still_open in ({"method": "auto"}, {"quality": "high"}):
        with pytest.raises(
            ValidationError, match=r"nothing is left to choose, but cache\.(method is auto|quality is high)"
        ):
            CacheConfig.model_validate({**still_open, "chosen": "x"})


def test_an_unknown_method_is_refused_with_all_names(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: m}\nsampling: {height: 32, width: 48, frames: 5}\n")
    for given in ("nope", "[dicache]"):
        with pytest.raises(
            InvalidInput, match=r"^cache\.method is .*, but it should be 'dicache', .* 'none' or 'auto'"
        ):
            load_config(file, [f"cache.method={given}"])


@pytest.mark.parametrize("key", MOVED)
def test_an_old_key_is_said_to_have_moved_and_means_the_same(key: str, tmp_path: Path) -> None:
    _, value = OWN[key]
    rest = NEEDED.get(key, {})
    old, lines = override({**section_for(key), key: value, **rest}, [])
    assert lines == [f"cache.{moved} is now cache.{MOVED[moved]}" for moved in (key, *rest)]
    new = nest(flatten(section_for(key)) | {MOVED[moved]: item for moved, item in {key: value, **rest}.items()})
    config = CacheConfig.model_validate(new)
    assert CacheConfig.model_validate(old) == config != CacheConfig.model_validate(section_for(key))
    assert CacheConfig.model_validate({**section_for(key), key: value, **rest}) == config, "without a word, too"
    file, said = tmp_path / "run.yaml", list[str]()
    file.write_text("model: {path: m}\nsampling: {height: 32, width: 48, frames: 5}\n")
    overrides = {**section_for(key), key: value, **rest}
    loaded = load_config(file, [f"cache.{k}={json.dumps(v)}" for k, v in overrides.items()], said.append)
    assert loaded.cache == config and said == lines


@pytest.mark.parametrize("key", MOVED)
def test_an_old_key_without_effect_is_left_out_with_a_line(key: str) -> None:
    method = "easycache"  # whose gate and estimator have no keys
    kind = MOVED[key].partition(".")[0]
    name = {"gate": "easycache", "estimator": "reuse"}[kind]
    section, lines = override({"method": method}, [(key, OWN[key][1])])
    assert section == {"method": method}
    assert lines == [f"cache.{key} is now cache.{MOVED[key]}, which the {kind} {name} does not use: it is left out"]
    assert override({"method": "none", key: 1}, []) == (
        {"method": "none"},
        [f"cache.{key} is now cache.{MOVED[key]}, which the method none does not use: it is left out"],
    )


@pytest.mark.parametrize("key", MOVED)
def test_a_key_of_another_gate_or_estimator_is_refused_with_the_name_of_one_that_uses_it(key: str) -> None:
    kind, _, inner = MOVED[key].partition(".")
    users = [name for name, settings in KINDS[kind].items() if inner in settings.model_fields]
    for method in ("easycache", "none"):
        with pytest.raises(ValidationError) as refused:
            CacheConfig.model_validate({"method": method, kind: {inner: OWN[key][1]}})
        (problem,) = refused.value.errors()
        sentence = problem["msg"].removeprefix("Value error, ")
        assert sentence.startswith(f"cache.{MOVED[key]} is {OWN[key][1]}, but ") and sentence.endswith(".")
        by_method = next((name for name, pair in PAIRS.items() if kind == "gate" and pair.gate == users[0]), None)
        assert f"use cache.method={by_method}" in sentence or f"use cache.{kind}={users[0]}" in sentence
        assert "\n" not in sentence and ": leave it out, or " in sentence


def test_the_sentence_for_a_key_of_another_gate() -> None:
    with pytest.raises(ValidationError) as refused:
        CacheConfig.model_validate({"gate": {"polynomial": [1.0]}})
    assert refused.value.errors()[0]["msg"] == (
        "Value error, cache.gate.polynomial is [1.0], but the gate is probe: only teacache uses it: leave it out, or "
        "use cache.method=teacache."
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"method": "interval", "threshold": 0.1}, r"cache\.threshold is 0\.1, but the gate is interval: only probe, "),
        ({"method": "calibrated", "calibration": "c", "warmup_steps": 3}, r"cache\.warmup_steps is 3, .* calibrated"),
        (
            {"gate": {"name": "list", "compute_steps": [0]}, "warmup_ratio": 0.2},
            r"cache\.warmup_ratio is 0\.2, .* list",
        ),
        ({"method": "magcache", "probe_depth": 2}, r"cache\.probe_depth is 2, but the gate is magcache and the est"),
        ({"gate": {"name": "list", "compute_steps": [0]}, "quality": "high"}, r"cache\.quality is high, .* exact"),
        ({"method": "auto", "gate": {"interval": 3}}, r"cache\.gate\.interval is 3, but cache\.method is auto"),
        ({"method": "auto", "gate": {"brake": None}}, r"cache\.gate\.brake is null, but cache\.method is auto"),
        ({"method": "auto", "estimator": "ridge"}, r"cache\.estimator is ridge, but cache\.method is auto"),
        *(
            ({"method": "none", key: value}, rf"cache\.{key} is .*, but cache\.method is none, which skips nothing: ")
            for key, value in {
                "quality": "high",
                "gate": "probe",
                "estimator": "reuse",
                "anchor": "input",
                "threshold": 0.1,
                "warmup_ratio": 0.2,
                "warmup_steps": 3,
                "probe_depth": 1,
                "decide": "per_branch",
                "max_consecutive_skips": 3,
                "max_skips": 3,
                "force_last": True,
                "corrector": True,
                "calibration": "c.json",
                "replay": "r.json",
            }.items()
        ),
    ],
)
def test_a_shared_key_without_effect_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        CacheConfig.model_validate(given)


def test_what_some_methods_do_not_use_is_null() -> None:
    interval, none = CacheConfig(method="interval"), CacheConfig(method="none")
    assert (interval.threshold, interval.warmup_ratio, interval.probe_depth) == (None, 0.0, None)
    assert (none.gate, none.estimator, none.threshold, none.warmup_ratio, none.warmup_steps) == (None,) * 5
    assert CacheConfig(method="taylorseer", anchor="probe").probe_depth == 1, "its estimates are added to the probe"
    assert CacheConfig.model_validate({"threshold": None, "probe_depth": None}) == CacheConfig()


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"cache\.interval and cache\.gate\.interval are both given"):
        CacheConfig.model_validate({"method": "interval", "interval": 3, "gate": {"interval": 4}})
    with pytest.raises(ValueError, match=r"cache\.interval and cache\.gate\.interval are both given"):
        override({"method": "interval", "interval": 3, "gate": {"interval": 4}}, [])


@pytest.mark.parametrize("name", OLD_SECTIONS)
def test_a_section_of_an_earlier_version_means_the_same_without_a_line(name: str, tmp_path: Path) -> None:
    old = OLD_SECTIONS[name]
    config = CacheConfig.model_validate(old)
    assert CacheConfig.model_validate_json(json.dumps(old), strict=True) == config
    flat = flatten(config.model_dump(mode="json"))
    for key, value in old.items():
        if key not in KINDS and flat.get(new := MOVED.get(key, key)) is not None:
            assert flat[new] == value, key
    assert config.method == old["method"] and config.chosen == old["chosen"]
    for key in ("gate", "estimator"):
        default = getattr(PAIRS[config.method], key) if config.method in PAIRS else None
        assert flat.get(key) == (old[key] or default)
    file, said = tmp_path / "run.yaml", list[str]()
    document = {"model": {"path": "m"}, "sampling": {"height": 32, "width": 48, "frames": 5}, "cache": old}
    file.write_text(json.dumps(document))
    assert load_config(file, ["runtime.audit=true"], said.append).cache == config and said == []


def test_an_earlier_versions_method_is_as_published_today() -> None:
    for method in OLD_SECTIONS.keys() & PAIRS.keys():
        given = {"calibration": "/cal.json"} if method == "calibrated" else {}
        assert CacheConfig.model_validate(OLD_SECTIONS[method]) == CacheConfig.model_validate(
            {"method": method, **given}
        )


def test_a_section_comes_back_as_it_was_stored() -> None:
    """Also one in which something is still to be chosen."""
    sections: list[dict[str, Any]] = [
        {"method": method} for method in (*PAIRS, "none", "auto") if method != "calibrated"
    ]
    sections += [{"quality": "high", "gate": {"at_threshold": "skip"}}, {"method": "auto", "quality": "draft"}]
    sections += [{"method": "hicache", "estimator": {"contraction": 0.7}, "quality": "high"}]
    for section in sections:
        config = CacheConfig.model_validate(section)
        assert CacheConfig.model_validate_json(config.model_dump_json(), strict=True) == config, section


KEYS = [*CacheConfig.model_fields, *MOVED, *MOVED.values(), "gate.name", "estimator.name"]
KEYS += ["nonsense", "gate.nonsense", ""]
VALUES: list[Any] = [None, True, -1, 0, 1, 3, 0.5, float("nan"), 1e400, "", "skip", "high", "auto", "none"]
VALUES += [[], [1], [1.0, "x"], [[]], {}, {"name": "interval"}, {"interval": 3}, {"name": None}, {"name": {}}]
VALUES += [{"gamma_max": [2]}, *PAIRS, *GATES, *ESTIMATORS]


@pytest.mark.parametrize("seed", range(6))
def test_any_section_is_taken_or_refused_in_a_sentence(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    taken = 0
    for _ in range(400):
        flat = {draw.choice(KEYS): draw.choice(VALUES) for _ in range(draw.randint(1, 5))}
        try:
            config = CacheConfig.model_validate(nest(flat))
        except ValidationError as error:
            assert error.errors()
        else:
            taken += 1
            assert CacheConfig.model_validate(config.model_dump()) == config
    assert taken > 10
    file, refused = tmp_path / "run.yaml", 0
    for _ in range(150):
        flat = {draw.choice(KEYS[:-1]): draw.choice(VALUES) for _ in range(draw.randint(0, 4))}
        section = nest(flat) if draw.random() < 0.9 else draw.choice(VALUES)
        document = {"model": {"path": "m"}, "sampling": {"height": 32, "width": 48, "frames": 5}, "cache": section}
        file.write_text(json.dumps(document))
        changes = [(draw.choice(KEYS[:-1]), draw.choice(VALUES)) for _ in range(draw.randint(0, 3))]
        try:
            load_config(file, [f"cache.{key}={json.dumps(value)}" for key, value in changes])
        except InvalidInput as error:
            refused += 1
            assert "\n" not in str(error) and str(error).endswith((".", "?")), error
    assert refused > 50
