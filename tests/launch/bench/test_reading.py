"""Results that are damaged, foreign, of another release, or not there."""

import json
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from launch.bench.reading import read_document
from tests.support.bench_documents import whole_document

GOOD = whole_document(4, 2).model_dump_json(by_alias=True)


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(GOOD)
    assert read_document(tmp_path) == read_document(tmp_path / "bench.json") == whole_document(4, 2)


def changed(**values: object) -> bytes:
    return json.dumps(json.loads(GOOD) | values).encode()


BAD = {
    "cut": (GOOD[:-50].encode(), "damaged"),
    "empty": (b"", "damaged"),
    "binary": (b"\xff\xfe\x00", "damaged"),
    "deep": (b"[" * 100000, "damaged"),
    "list": (b"[1]", "no results"),
    "report": (b'{"schema": 1, "steps": []}', "no results"),
    "newer": (changed(schema=2), "schema 2"),
    "older": (changed(schema=0), "schema 0"),
    "truth": (changed(schema=True), "schema True"),
    "key": (changed(extra=1), "extra"),
    "missing": (json.dumps({k: v for k, v in json.loads(GOOD).items() if k != "stages"}).encode(), "stages"),
    "nan": (changed(videos_per_hour=float("nan")), "damaged"),
    "huge": (changed(videos_per_hour=1).replace(b'"videos_per_hour": 1', b'"videos_per_hour": 1e999'), "damaged"),
    "no samples": (changed(samples=[]), "samples"),
    "negative": (GOOD.replace('"round":0', '"round":-3').encode(), "round"),
    "far": (GOOD.replace('"round":0', '"round":99999999999').encode(), "round"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_result_is_one_sentence(what: str, tmp_path: Path) -> None:
    content, word = BAD[what]
    (tmp_path / "bench.json").write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        read_document(tmp_path)
    assert word in str(refused.value) and "\n" not in str(refused.value) and str(refused.value)[-1] == "."


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", tmp_path / "x" / "y"):
        with pytest.raises(InvalidInput, match="no results"):
            read_document(path)
