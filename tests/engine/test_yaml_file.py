"""YAML from users: plain values of bounded size, checked before anything is built."""

import time
from pathlib import Path

import pytest
import yaml

from engine.config_file import load_config
from engine.errors import InvalidInput
from engine.yaml_file import parse_yaml, read_yaml
from launch.sweep.curves import read_curves

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", {"a": 1e-3}),
        ("a: 5e0", {"a": 5.0}),
        ("a: 1_000", {"a": 1000}),
        ("a: 0x10", {"a": 16}),
        ("a: .5", {"a": 0.5}),
        ("a: ~", {"a": None}),
        ("a: !!str 5", {"a": "5"}),
        ("a: [1, two, {b: true}]", {"a": [1, "two", {"b": True}]}),
        ("a: 16:9", {"a": "16:9"}),
        ("a: 2026-11-27", {"a": "2026-11-27"}),
        ("a: =", {"a": "="}),
        ("&name a: 1", {"a": 1}),
        ("", None),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert parse_yaml(text, "run.yaml") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x\n", "line 2 (the alias *x is not supported"),
        (BOMB, "the alias *a is not supported"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "line 3 (the alias *x"),
        ("a: &x [*x]\n", "the alias *x"),
        ("a: !!python/object/apply:os.system [true]", "the tag !!python/object/apply:os.system is not supported"),
        ("a: !!binary aGk=", "the tag !!binary"),
        ("a: !!set {b}", "the tag !!set"),
        ("a: !mine 5", "the tag !mine"),
        ("a: " + "9" * 5000, "a number has 5000 characters"),
        ("a: 0x" + "f" * 5000, "a number has 5002 characters"),
        ("[" * 40 + "]" * 40, "more than 32 levels"),
        ("{a: " * 900 + "1" + "}" * 900, "more than 32 levels"),
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("a: {b: 1, 'b': 2}\n", "the key 'b' is given twice"),
        ("[a]: 1", "a key is a list or a mapping"),
        ("a: !!bool maybe", "cannot be read as YAML"),
        ("a: [", "is not valid YAML at line 1"),
        ("a: \x1b[31m", "is not valid YAML"),
        ("x" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_yaml(text, "run.yaml")
    assert words in str(refused.value)
    assert len(str(refused.value)) < 300
    assert "\x1b" not in str(refused.value)


def test_numbers_in_base_60_take_no_time() -> None:
    start = time.monotonic()
    assert parse_yaml("1" + ":1" * 100_000, "run.yaml") == "1" + ":1" * 100_000
    assert time.monotonic() - start < 5


def test_nothing_is_built_from_a_refused_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: object, **named: object) -> None:
        raise AssertionError("a value was built")

    monkeypatch.setattr(yaml.constructor.SafeConstructor, "construct_object", build)
    with pytest.raises(InvalidInput, match="alias"):
        parse_yaml(BOMB, "run.yaml")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_file_without_an_end_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match="larger than 1 MB"):
        load_config(device)
    with pytest.raises(InvalidInput, match="larger than 1 MB"):
        read_yaml(Path(device), "--methods is")


def test_every_reader_of_yaml_refuses_aliases(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("sampling: &x {steps: 4}\nruntime: *x\n")
    with pytest.raises(InvalidInput, match=r"CONFIG is '.*run\.yaml', which is not valid YAML at line 2 .*alias"):
        load_config(file)
    whole = Path(__file__).parents[2] / "configs" / "tiny-wan.yaml"
    with pytest.raises(InvalidInput, match=r"--set sampling=.*alias"):
        load_config(whole, ["sampling={steps: &x 4, frames: *x}"])
    methods = tmp_path / "methods.yaml"
    methods.write_text("- &x {method: dicache}\n- *x\n")
    with pytest.raises(
        InvalidInput, match=r"--methods is '.*methods\.yaml', which is not valid YAML at line 2 .*alias"
    ):
        read_curves(str(methods), load_config(whole).cache, (), lambda line: None)
