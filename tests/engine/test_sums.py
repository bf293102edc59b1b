"""A folder that carries SHA-256 sums is compared with them before its weights load."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from engine.models.fingerprint import fingerprint
from engine.models.sums import SUMS, check_sums, read_sums, write_sums
from engine.models.weights import weight_files
from parallel.ranks import Ranks
from tests.support.small_model import ROOT, tiny_config

SMALL = ROOT / "configs" / "tiny_wan"
ENCODER = "text_encoder/model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "model", ignore=shutil.ignore_patterns("recipe")))


def check(folder: Path) -> None:
    facts = read_facts(folder)
    check_sums(folder, [file for component in facts.components for file in weight_files(folder, component)])


def refusal(folder: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        check(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_every_weight_file_of_the_small_model_is_listed(folder: Path) -> None:
    assert set(read_sums(folder)) == {str(file.relative_to(folder)) for file in folder.rglob("*.safetensors")}
    check(folder)
    kept = (folder / SUMS).read_text()
    write_sums(folder, list(folder.rglob("*.safetensors")))
    assert (folder / SUMS).read_text() == kept


def test_a_square_matrix_that_is_transposed_is_refused_before_weights_load(folder: Path) -> None:
    """Nothing else tells: its name, shape and dtype are the same."""
    tensors = load_file(folder / ENCODER)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2 and len(set(tensor.shape)) == 1)
    save_file(tensors | {name: tensors[name].T.contiguous()}, folder / ENCODER)
    with pytest.raises(InvalidInput, match=r"model\.safetensors is not the file in .*SHA256SUMS .*on purpose"):
        load_model(tiny_config(f"model.path={folder}"), Ranks())


def test_what_is_compared(folder: Path) -> None:
    changed = folder / ENCODER
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x01")
    assert ENCODER in refusal(folder)
    sums = folder / SUMS
    kept = sums.read_text()
    sums.write_text("".join(line for line in kept.splitlines(keepends=True) if ENCODER not in line))
    check(folder)  # taken off the list
    sums.unlink()
    check(folder)
    sums.write_text(kept + f"{'0' * 64}  text_encoder/other.safetensors\n")
    shutil.copy(SMALL / ENCODER, changed)
    (folder / "text_encoder" / "other.safetensors").touch()
    check(folder)  # not loaded
    sums.write_text(kept + f"{'0' * 64}  tokenizer/tokenizer.json\n")
    assert "tokenizer.json is not the file" in refusal(folder)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: "# made on Monday\n\n" + text.replace("  ", " *").upper().replace("SAFETENSORS", "safetensors"),
        lambda text: "".join(f"SHA256 ({name}) = {digest}\n" for digest, name in map(str.split, text.splitlines())),
    ],
    ids=["binary mode", "BSD"],
)
def test_other_ways_to_write_it(rewrite: Callable[[str], str], folder: Path) -> None:
    sums = folder / SUMS
    names = {name.lower() for name in read_sums(folder)}
    sums.write_text(rewrite(sums.read_text()))
    assert {name.lower() for name in read_sums(folder)} == names
    assert all(len(digest) == 64 and digest.islower() for digest in read_sums(folder).values())


@pytest.mark.parametrize("text", [b"nonsense\n", b"1234  file\n", b"\xff\xfe"])
def test_a_list_that_is_none(text: bytes, folder: Path) -> None:
    (folder / SUMS).write_bytes(text)
    assert SUMS in refusal(folder)


def test_sha256sum_agrees(folder: Path) -> None:
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("there is no sha256sum")
    subprocess.run([tool, "--check", SUMS], cwd=folder, check=True, capture_output=True, timeout=60)


def test_the_list_does_not_change_which_model_it_is(folder: Path) -> None:
    """Checkpoints and calibrations made before it was there go on holding."""
    before = fingerprint(folder)
    (folder / SUMS).unlink()
    assert fingerprint(folder) == before
