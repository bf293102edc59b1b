"""Reading a configuration: what is accepted, what is refused and in which words."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.config import Config, valid_keys
from engine.config_file import load_config
from engine.errors import InvalidInput
from engine.request import GenerationRequest, make_request

MINIMAL = "model: {path: m}\nsampling: {height: 32, width: 48, frames: 5}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_defaults_fill_what_the_file_leaves_out(file: Path) -> None:
    config = load_config(file)
    assert (config.sampling.steps, config.sampling.max_sequence_length) == (50, 512)
    assert config.cache.method == "dicache"
    assert config.parallel.ulysses is None
    assert config.runtime.device == "auto"


def test_the_shipped_configuration_names_the_shipped_model() -> None:
    root = Path(__file__).parents[2]
    config = load_config(root / "configs" / "tiny-wan.yaml")
    assert config.model.path == str(root / "configs" / "tiny_wan")
    sampling = config.sampling
    assert (sampling.height, sampling.width, sampling.frames, sampling.steps) == (64, 64, 17, 50)
    assert (sampling.guidance, sampling.shift, sampling.fps, sampling.scheduler) == (5.0, 3.0, 8, "unipc")


def test_overrides_go_over_the_file_in_order(file: Path) -> None:
    config = load_config(file, ["sampling.steps=3", "cache.threshold=1e-2", "sampling.steps=4", "sampling.guidance=1"])
    assert (config.sampling.steps, config.cache.threshold, config.sampling.guidance) == (4, 0.01, 1.0)
    assert load_config(file, ["cache.gate=list", "cache.gate.compute_steps=[0, 3]"]).cache.gate.compute_steps == (0, 3)
    assert (
        load_config(file, ["cache.max_consecutive_skips=4", "cache.max_consecutive_skips="]).cache
        == Config(model={"path": "x"}, sampling={"height": 1, "width": 1, "frames": 1}).cache
    )


def test_an_empty_section_is_all_defaults(file: Path) -> None:
    file.write_text(MINIMAL + "cache:\nparallel:\n")
    assert load_config(file, ["parallel.ring=2"]).parallel.ring == 2


def test_auto_is_a_section_with_all_degrees_open(file: Path) -> None:
    file.write_text(MINIMAL + "parallel: auto\n")
    parallel = load_config(file).parallel
    assert parallel.is_auto
    assert (parallel.data, parallel.cfg, parallel.ulysses, parallel.ring) == (1, None, None, None)
    file.write_text(MINIMAL + "parallel: {cfg: null, ulysses: null}\n")
    assert load_config(file).parallel == parallel
    file.write_text(MINIMAL + "parallel: {ulysses: 2}\n")
    assert not load_config(file).parallel.is_auto
    assert load_config(file, ["parallel=auto"]).parallel == parallel, "the word opens the degrees"
    for overrides in (["parallel=auto", "parallel.data=2"], ["parallel.data=2", "parallel=auto"]):
        beside = load_config(file, overrides).parallel
        assert beside.is_auto and beside.data == 2, "auto opens the degrees of a replica and nothing else"
    file.write_text(MINIMAL + "parallel: {shard_weights: true, cfg: 2, ring: 3}\n")
    opened = load_config(file, ["parallel=auto"]).parallel
    assert opened == parallel.model_copy(update={"shard_weights": True})


def test_a_relative_model_path(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(file).model.path == str(elsewhere / "m"), "not beside the file: from the working directory"
    (tmp_path / "m").mkdir()
    assert load_config(file).model.path == str(tmp_path / "m"), "beside the file"
    assert load_config(file, ["model.path=m"]).model.path == str(elsewhere / "m"), "an override is typed here"
    assert load_config(file, ["model.path=/a/../b"]).model.path == "/b"


def test_a_configuration_cannot_be_changed(file: Path) -> None:
    with pytest.raises(ValidationError):
        load_config(file).sampling.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("cache.thresold", "cache.threshold"),
        ("cache.treshhold", "cache.threshold"),
        ("sampling.step", "sampling.steps"),
        ("sampling.guidance_scale", "sampling.guidance"),
        ("sampling.num_frames", "sampling.frames"),
        ("steps", "sampling.steps"),
        ("model.steps", "sampling.steps"),
        ("parallel.ulyses", "parallel.ulysses"),
        ("ulysses", "parallel.ulysses"),
        ("runtime.step_timeout", "runtime.step_timeout_seconds"),
        ("samplng", "sampling"),
    ],
)
@pytest.mark.parametrize("where", ["file", "override"])
def test_an_unknown_key_names_the_nearest_valid_one(wrong: str, right: str, where: str, file: Path) -> None:
    overrides = [f"{wrong}=1"]
    if where == "file":
        section, _, key = wrong.partition(".")
        tree = f"{section}: {{{key}: 1}}" if key else f"{section}: 1"
        file.write_text(tree)
        overrides = []
    with pytest.raises(InvalidInput) as refusal:
        load_config(file, overrides)
    assert str(refusal.value).startswith(f"Unknown key {wrong} in ")
    assert str(refusal.value).endswith(f"did you mean {right}?")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampling.steps=-3", ["sampling.steps", "-3", "greater than 0"]),
        ("sampling.steps=1001", ["1001", "1000"]),
        ("sampling.steps='5'", ["sampling.steps", "'5'", "integer"]),
        ("sampling.fps=0", ["sampling.fps", "0"]),
        ("sampling.shift=0", ["sampling.shift"]),
        ("sampling.shift=.nan", ["sampling.shift", "nan"]),
        ("sampling.guidance=-1", ["sampling.guidance", "-1"]),
        ("sampling.max_sequence_length=1001", ["1001", "1000"]),
        ("sampling.scheduler=ddim", ["'ddim'", "'unipc' or 'euler'"]),
        ("runtime.step_timeout_seconds=0", ["step_timeout_seconds"]),
        ("runtime.step_timeout_seconds=1e-7", ["step_timeout_seconds", "1"]),
        ("model.path=~nobody-has-this-name/x", ["~nobody-has-this-name"]),
        ("cache.force_last=!!bool maybe", ["force_last"]),
        ("cache.gate.compute_steps=&a [*a]", ["value"]),
        ("runtime.load_timeout_seconds=.inf", ["load_timeout_seconds", "inf"]),
        ("model.path=", ["model.path", "None"]),
        ("model.path=3", ["model.path", "3", "string"]),
        ("model.loras={path: a.safetensors}", ["model.loras", "a.safetensors", "a list", "run.yaml", "--set"]),
        ("model.loras=[a.safetensors]", ["model.loras.0", "'a.safetensors'", "a section of keys"]),
        ("model.single_files={unet: a}", ["model.single_files has the key 'unet', but it should be 'transformer'"]),
        ("model.dtype=float8", ["'float8'", "'bfloat16'"]),
        ("cache.threshold=-1", ["cache.threshold", "-1"]),
        ("cache.threshold=yes", ["cache.threshold", "True", "number"]),
        ("cache.estimator.gamma_max=0.5", ["cache.estimator.gamma_max", "0.5"]),
        ("cache.gate.compute_steps=[0, x]", ["cache.gate.compute_steps", "'x'"]),
        ("cache=3", ["cache", "3", "section"]),
        ("sampling=", ["sampling", "missing"]),
        ("parallel.cfg=0", ["parallel.cfg", "0"]),
        ("parallel=atuo", ["parallel", "'atuo'", "the word auto", "a section of keys", "run.yaml", "--set"]),
        ("parallel=''", ["parallel", "''", "the word auto"]),
        ("parallel=2", ["parallel", "2", "a section of keys"]),
        ("parallel=[auto]", ["parallel", "['auto']", "a section of keys"]),
        ("parallel.cfg=auto", ["parallel.cfg", "'auto'", "integer"]),
        ("parallel.tensor=0", ["parallel.tensor", "0"]),
        ("parallel.tensor=true", ["parallel.tensor", "True"]),
        ("parallel.tensor=2", ["parallel.tensor is 2", "xDiT 0.7", "parallel.shard_weights"]),
        ("parallel={tensor: 2, ulysses: 2}", ["parallel.tensor is 2", "2 sequence ranks"]),
        ("sampling.steps={a: [}", ["sampling.steps={a: [}", "YAML"]),
        ("sampling.steps", ["sampling.steps", "key=value"]),
        ("=3", ["=3", "key=value"]),
    ],
)
def test_a_bad_value_is_one_sentence_with_the_value(override: str, words: list[str], file: Path) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_config(file, [override])
    sentence = str(refusal.value)
    for word in words:
        assert word in sentence
    assert "\n" not in sentence and "pydantic" not in sentence and sentence.endswith(".")


@pytest.mark.parametrize(
    "content",
    [
        "a: [",
        "[1, 2]",
        "just words",
        "",
        "a: 1\na: 2",
        "? [1, 2]\n: 3",
        "a: 2020-13-45",
        "a: &x [*x]",
        "\x07",
        "a: !!python/object:os.x {}",
    ],
)
def test_a_bad_file_is_one_sentence(content: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(InvalidInput) as refusal:
        load_config(file)
    assert "\n" not in str(refusal.value)


def test_a_key_of_an_earlier_version_is_taken_with_a_line(file: Path) -> None:
    said: list[str] = []
    assert load_config(file, ["parallel.tensor=1"], said.append) == load_config(file)
    assert [line.split(",")[0] for line in said] == ["parallel.tensor has no effect"]


def test_a_key_given_twice(file: Path) -> None:
    file.write_text(MINIMAL.replace("frames: 5", "frames: 5, frames: 9"))
    with pytest.raises(InvalidInput, match="'frames' is given twice"):
        load_config(file)


def test_every_key_has_a_word_of_explanation() -> None:
    def undocumented(model: type, prefix: str = "") -> list[str]:
        missing = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if hasattr(field.annotation, "model_fields"):
                missing += undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                missing.append(prefix + name)
        return missing

    assert undocumented(Config) == []
    assert {"model.path", "sampling.max_sequence_length", "cache.decide", "parallel.ring"} <= set(valid_keys())


def test_a_request_of_several_prompts(file: Path) -> None:
    sampling = load_config(file).sampling
    request = make_request(["a", "b"], "", 2**63 - 1, sampling)
    assert request.prompts == ("a", "b") and request.sampling == sampling
    with pytest.raises(ValidationError):
        request.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("prompts", "negative", "seed", "words"),
    [
        ([], "", 0, ["--prompt"]),
        ([""], "", 0, ["--prompt", "''"]),
        (["a", " \n"], "", 0, ["--prompt"]),
        (["\udcff"], "", 0, ["UTF-8"]),
        (["a"], "\udcff", 0, ["UTF-8"]),
        (["a"], "", -1, ["--seed", "-1"]),
        (["a"], "", 2**63, ["--seed", str(2**63)]),
    ],
)
def test_a_bad_request(prompts: list[str], negative: str, seed: int, words: list[str], file: Path) -> None:
    with pytest.raises(InvalidInput) as refusal:
        make_request(prompts, negative, seed, load_config(file).sampling)
    for word in words:
        assert word in str(refusal.value)


def test_a_request_is_checked_without_the_command_line_too(file: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        GenerationRequest(prompts=(" ",), sampling=load_config(file).sampling)
