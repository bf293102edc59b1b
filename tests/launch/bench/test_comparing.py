"""`--compare` from files to a table, a report and an exit code."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InvalidInput
from launch.bench.compare import compare, compare_against
from launch.bench.comparing import compare_results, comparison_markdown, conclusion
from launch.bench.document import BenchDocument
from tests.support.bench_documents import Machine, document


def write(folder: Path, results: BenchDocument) -> Path:
    folder.mkdir()
    (folder / "bench.json").write_text(results.model_dump_json(by_alias=True))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    machine = Machine(np.random.default_rng(0), between_runs=0.1, between_rounds=0.05, noise=0.02)
    calm, slow = machine.measured(), machine.measured(sleep=0.05)
    return write(tmp_path / "a", document(calm)), write(tmp_path / "b", document(slow))


def test_the_exit_code_says_whether_b_is_slower(folders: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = folders
    stream, report = io.StringIO(), tmp_path / "new" / "report.json"
    assert compare_results(a, b / "bench.json", 0.02, report, stream) == 1
    out = stream.getvalue()
    assert "B is slower beyond the noise: denoise with its waits, over without, by 5.0%" in out
    written = json.loads(report.read_text())
    assert written["slower"] == [f"{name} with its waits, over without" for name in ("a video", "denoise", "a step")]
    assert {"name", "ratio", "low", "high", "verdict"} <= written["rows"][0].keys()
    assert compare_results(a, b, 0.1, None, io.StringIO()) == 0
    assert compare_results(b, a, 0.02, None, io.StringIO()) == 0


def test_one_result_with_two_configurations(tmp_path: Path) -> None:
    machine = Machine(np.random.default_rng(0), between_rounds=0.1, noise=0.01)
    drift = machine.drift(5)
    given, reference = machine.measured(drift=drift, work=1.1), machine.measured(drift=drift)
    both = write(tmp_path / "both", document(given, against=reference))
    assert compare_results(both, both, 0.02, None, io.StringIO()) == 1
    single = write(tmp_path / "one", document(given))
    with pytest.raises(InvalidInput, match="--against"):
        compare_results(single, single, 0.02, None, io.StringIO())
    assert "| denoise | " in comparison_markdown(compare_against(document(given, against=reference)))


def test_what_it_comes_to_is_one_sentence() -> None:
    machine = Machine(np.random.default_rng(0), between_rounds=0.001, noise=0.001)
    calm = document(machine.measured())
    assert conclusion(compare(calm, document(machine.measured()))).startswith("B is not slower")
    assert conclusion(compare(calm, document(machine.measured(work=0.5)))).startswith("B is faster")
    assert "not known" in conclusion(compare(calm, document(machine.measured(rounds=1))))
