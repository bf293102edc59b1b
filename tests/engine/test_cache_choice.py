"""What `auto` and a quality come to, for which model, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from dicache.config import CacheConfig, Quality
from dicache.pairs import PAIRS
from engine.checkpoints.match import calibrated_for
from engine.checks.cache_choice import Choice, choose_cache
from engine.checks.preflight import preflight
from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import ModelFacts, read_facts
from engine.progress import Progress
from engine.request import Outputs, make_request, make_tasks
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, ROOT, tiny_config

QUALITIES: tuple[Quality, ...] = get_args(Quality)
PUBLISHED = {model.name: model for model in CATALOG}


def choose(config: Config, facts: ModelFacts | None = None) -> Choice:
    return choose_cache(config, make_request(["x"], "", 0, config.sampling), facts or read_facts(config.model.path))


def choose_for(model: PublishedModel, *overrides: str) -> CacheConfig:
    config = load_config(ROOT / "configs" / model.recipe, [f"cache.{override}" for override in overrides])
    return choose(config, model.facts).cache


@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.name)
def test_dicache_is_as_the_recipe_has_it(model: PublishedModel) -> None:
    """The recipes say in comments where their numbers come from; whoever comes back to the method gets the same."""
    written = load_config(ROOT / "configs" / model.recipe).cache
    chosen = choose_for(model, "method=auto")
    keys = ("method", "threshold", "gate", "estimator", "warmup_ratio", "probe_depth", "decide")
    assert {key: getattr(chosen, key) for key in keys} == {key: getattr(written, key) for key in keys}
    assert chosen.chosen == (
        "method dicache: no cache.calibration is named; of those that need none, this is published for most models"
    )
    assert choose_for(model).chosen is None and choose_for(model) == written


def test_settings_that_authors_publish_for_one_model() -> None:
    hunyuan, small, large = PUBLISHED["HunyuanVideo"], PUBLISHED["Wan 2.1 T2V 1.3B"], PUBLISHED["Wan 2.1 T2V 14B"]
    assert (
        choose_for(hunyuan, "method=easycache").threshold,
        choose_for(hunyuan, "method=easycache").warmup_steps,
    ) == (
        0.025,
        5,
    )
    assert choose_for(hunyuan, "method=easycache", "warmup_ratio=0.3").warmup_steps is None, "given ones stay"
    assert choose_for(large, "method=easycache").threshold == 0.05
    assert choose_for(hunyuan, "method=fbcache").threshold == 0.06
    assert choose_for(hunyuan, "method=dbcache").threshold == 0.08, "the same gate, another method"
    assert [choose_for(model, "method=teacache").threshold for model in (small, large, hunyuan)] == [0.08, 0.2, 0.1]
    assert choose_for(small, "method=teacache", "gate.use_ret_steps=true").threshold == 0.1
    assert choose_for(hunyuan, "method=magcache").max_consecutive_skips == 6
    assert choose_for(large, "gate=easycache", "estimator=projection").estimator.gamma_max == 2.0
    either = PUBLISHED["Wan 2.1 I2V 14B 480P"]
    assert choose_for(either, "method=teacache").threshold == 0.1, "may be 480P or 720P: the general one"
    assert choose_for(either, "method=teacache", "gate.published=Wan2.1-I2V-14B-720P").threshold == 0.3


@pytest.mark.parametrize("method", [*PAIRS, "auto"])
def test_every_method_has_every_quality_in_order(method: str) -> None:
    """Draft skips most, on a model whose thresholds were measured and on one with published ones."""
    extra = ("calibration=/cal.json",) if method == "calibrated" else ()
    for model in (None, PUBLISHED["HunyuanVideo"]):
        skipped = []
        for quality in QUALITIES:
            overrides = (f"method={method}", f"quality={quality}", *extra)
            if model is None:
                cache = choose(tiny_config(*(f"cache.{override}" for override in overrides))).cache
            else:
                cache = choose_for(model, *overrides)
            assert cache.quality is None and cache.chosen and f"quality {quality}: " in cache.chosen
            knobs = (cache.threshold, getattr(cache.gate, "interval", None), getattr(cache.gate, "steps_skipped", None))
            skipped += [knob for knob in knobs if knob is not None]
        draft, standard, high = skipped
        assert draft > standard > high and draft != high


def test_a_quality_is_what_was_measured_or_a_multiple_of_what_is_published() -> None:
    assert choose(tiny_config("cache.quality=standard")).cache.threshold == 0.14
    assert choose(tiny_config("cache.method=fbcache", "cache.quality=draft")).cache.threshold == 0.109
    assert choose(tiny_config("cache.gate=easycache", "cache.quality=high")).cache.threshold == 0.025, "by the gate"
    hunyuan = PUBLISHED["HunyuanVideo"]
    assert [choose_for(hunyuan, f"quality={quality}").threshold for quality in QUALITIES] == [0.2, 0.1, 0.05]
    assert choose_for(PUBLISHED["Wan 2.1 T2V 14B"], "quality=standard").threshold == 0.08
    fast = choose_for(PUBLISHED["Wan 2.1 T2V 14B"], "method=magcache", "quality=draft")
    assert (fast.threshold, fast.max_consecutive_skips) == (0.24, 6), "its authors' fast setting"


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """A calibration of the small model for 12 steps, which was not measured but holds."""
    made_with = json.loads(json.dumps(calibrated_for(config := tiny_config(), config.sampling)))
    budgets = [{"compute": compute, "damage": 1.0} for compute in ([0, 1, 3, 5, 8, 11], [0, 3, 7])]
    branches = {"branches": ["cond", "uncond"], "mixing": [5.0, -4.0]}
    products = [[*[0.0] * row, 1.0] for row in range(24)]
    path = tmp_path / "cal.json"
    document = {"made_with": made_with, "versions": {}, "prompts": [], "steps": 12, "step_sizes": [1.0] * 12}
    document |= {**branches, "products": products, "budgets": budgets}
    path.write_text(json.dumps(document))
    return path


def test_auto_takes_a_calibration_that_holds(calibration: Path) -> None:
    auto = ("cache.method=auto", f"cache.calibration={calibration}")
    chosen = choose(tiny_config(*auto, "cache.quality=draft"))
    assert (chosen.cache.method, chosen.cache.gate.steps_skipped) == ("calibrated", 0.75)
    assert chosen.reasons[0] == "method calibrated: cache.calibration holds for this model and sampling"
    other = choose(tiny_config(*auto, "sampling.shift=5"))
    assert other.cache.method == "innovation"
    assert other.reasons == [
        "method innovation: cache.calibration does not hold here, for sampling.shift was 3.0 and is 5.0; "
        "this was measured to be the best here of those that need none"
    ]
    experts = replace(read_facts(tiny_config().model.path), boundary_timestep=900.0)
    assert (
        choose(tiny_config(*auto), experts)
        .reasons[0]
        .startswith("method innovation: cache.calibration does not hold here, for the model has two transformers; ")
    )
    with pytest.raises(InvalidInput, match=r"cache\.calibration '.*/nothing.json' cannot be read"):
        choose(tiny_config("cache.method=auto", "cache.calibration=nothing.json"))


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (("method=auto",), "method calibrated: cache.calibration holds for this model and sampling; "),
        (("method=calibrated", "gate.brake=null"), ""),  # it would find out that nothing was measured
    ],
)
def test_what_was_chosen_is_checked_run_and_reported(calibration: Path, method: tuple[str, ...], why: str) -> None:
    overrides = (*method, "quality=high", f"calibration={calibration}")
    config = tiny_config(*(f"cache.{override}" for override in overrides))
    (task,) = make_tasks([PROMPT], "", [1], config.sampling, Outputs())
    model = load_model(config, Ranks())
    for open_end in ({}, {"method": "dicache"}):
        unsettled = config.model_copy(update={"cache": config.cache.model_copy(update=open_end)})
        with pytest.raises(ValueError, match="The cache section is open"):
            Engine(replace(model, config=unsettled), Progress()).generate(task.request)
    config = preflight(config, [task], Place(1)).config
    result = Engine(replace(model, config=config), Progress()).generate(task.request)
    assert result.report
    computed = [row["step"] for row in result.report["steps"] if row["action"] != "skip" and row["branch"] == "cond"]
    assert computed == [0, 1, 3, 5, 8, 11] if not why else set(computed) >= {0, 1, 3, 5, 8, 11}
    cache = result.report["request"]["cache"]
    assert (cache["method"], cache["gate"]["steps_skipped"], cache["quality"]) == ("calibrated", 0.5, None)
    assert cache["chosen"] == f"{why}quality high: steps_skipped 0.5"
    again = CacheConfig.model_validate(cache)
    assert choose(config.model_copy(update={"cache": again})) == Choice(again), "a report's section stands"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"threshold": 0.1}, r"cache\.threshold is 0\.1, but cache\.quality is draft, .*: leave one of them out\."),
        ({"method": "interval", "gate": {"interval": 3}}, r"cache\.gate\.interval is 3, but cache\.quality is draft"),
        (
            {"method": "calibrated", "calibration": "c.json", "gate": {"steps_skipped": 0.3}},
            r"cache\.gate\.steps_skipped is 0\.3, but cache\.quality",
        ),
        (
            {"method": "interval", "gate": {"compute_steps": (1,)}},
            r"cache\.gate\.compute_steps is \(1,\), but cache\.quality",
        ),
        ({"replay": Path("run.json")}, r"cache\.replay is 'run\.json', but cache\.quality"),
        ({"method": "none"}, r"cache\.quality is draft, but cache\.method is none, which skips nothing: leave it out"),
        ({"gate": {"name": "list", "compute_steps": (1,)}}, r"cache\.quality is draft, but cache\.gate is list"),
        ({"method": "auto", "gate": "probe"}, r"cache\.gate is probe, but cache\.method is auto, .*: name a method"),
    ],
)
def test_what_is_said_twice_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CacheConfig.model_validate({"quality": "draft", **given})


def test_a_quality_and_a_threshold_take_each_others_place(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {path: m}\nsampling: {height: 32, width: 48, frames: 5}\ncache: {quality: high}\n")
    assert load_config(file, ["cache.threshold=0.1"]).cache == CacheConfig(threshold=0.1)
    assert load_config(file, ["cache.method=fbcache"]).cache == CacheConfig(method="fbcache", quality="high")
    with pytest.raises(InvalidInput, match=r"cache\.threshold is 0\.1, but cache\.quality is draft"):
        load_config(file, ["cache.threshold=0.1", "cache.quality=draft"])


def test_numbers_of_another_sampling_are_never_used_silently() -> None:
    def said(name: str, *overrides: str) -> list[str]:
        model = PUBLISHED[name]
        config = load_config(ROOT / "configs" / model.recipe, overrides)
        return list(choose(config, model.facts).reasons)

    assert said("Wan 2.1 T2V 14B", "cache.method=magcache") == []
    numbers = "magcache's numbers for Wan2.1-T2V-14B are of 50 steps, shift 5 and guidance 5, and this run has "
    assert said("Wan 2.1 T2V 14B", "cache.method=magcache", "sampling.steps=30") == [
        f"{numbers}30 steps, shift 5 and guidance 5: the nearest entries are taken, as its authors do"
    ]
    assert said("Wan 2.1 T2V 14B", "cache.method=magcache", "sampling.shift=3", "sampling.guidance=4") == [
        f"{numbers}50 steps, shift 3 and guidance 4: the table is carried over by noise level, "
        "guidance is not accounted for"
    ]
    (line,) = said("HunyuanVideo", "cache.method=teacache", "sampling.steps=30")
    assert line.endswith(": they are used as they are, so cache.threshold may skip more or fewer steps than published")
    own = ("cache.gate.polynomial=[1.0, 0.0]", "cache.gate.signal=modulated_input")
    assert said("HunyuanVideo", "cache.method=teacache", "sampling.steps=30", *own) == []
    assert said("HunyuanVideo", "cache.method=magcache", "sampling.shift=5", "cache.gate.ratios=[1.0, 0.9]") == []
    assert said("HunyuanVideo", "sampling.shift=5") == []
