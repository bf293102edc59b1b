"""The other build's process, played by a program that knows no more than the protocol.

It stands for builds of other releases: what it sends and expects must go on working.
"""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.errors import InvalidInput, RankFailure
from launch.bench.turns.build import Build
from launch.bench.turns.other import OtherBuild

PLAYED = """
import json, os, socket, sys, time
from pathlib import Path

key, case = os.environ["LOCKSTEP_TURNS_KEY"], sys.argv[1]
address = next(word for word in sys.argv if word.startswith("--turns=")).partition("=")[2].split(":")
folder = str(Path(__file__).resolve().parents[1])


def call(**greeting):
    line = socket.create_connection((address[0], int(address[1]))).makefile("rw")
    tell(line, **greeting)
    return line


def tell(line, **message):
    line.write(json.dumps(message) + "\\n")
    line.flush()


def refuse(text):
    print("some progress", file=sys.stderr)
    print(f"lockstep: {text}", file=sys.stderr)
    sys.exit(2)


if case == "refuses":
    refuse("sampling.colour is 3, which this build does not know.")
if case == "older":
    refuse("No such option: --turns: see lockstep --help.")
if case == "stranger":
    call(key="guessed", turns=1, folder="/elsewhere")
starter = call(key=key, turns=2 if case == "newer" else 1, folder="/elsewhere" if case == "elsewhere" else folder)
assert json.loads(starter.readline()) == {"do": "load"}
rank = call(key=key, turns=1)
tell(rank, done="load")
seen = []
for text in rank:
    order = json.loads(text)
    seen.append(order)
    if order["do"] == "video" and case == "dies":
        print("lockstep: rank 1 failed in denoise step 3: injected", file=sys.stderr)
        sys.exit(1)
    if order["do"] == "video" and case == "killed":
        os.kill(os.getpid(), 9)
    if order["do"] == "video" and case == "sleeps":
        time.sleep(1000)
    if order["do"] == "write":
        Path(folder, "seen.json").write_text(json.dumps(seen))
    tell(rank, done="nonsense" if case == "confused" and order["do"] == "video" else order["do"])
    if order["do"] == "write":
        break
"""


def other(folder: Path, case: str) -> OtherBuild:
    program = folder / "launch" / "__main__.py"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PLAYED)
    return OtherBuild(Build(folder.resolve(), "1", None, sys.executable), [case], folder / "other.log")


def let(build: OtherBuild, what: str, **fields: int) -> None:
    build.order(what, **fields)
    deadline = time.monotonic() + 20
    while build.answered(0.2) is None:
        assert time.monotonic() < deadline


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("case", ["plain", "stranger"])
def test_orders_are_carried_out_one_by_one(case: str, tmp_path: Path) -> None:
    with other(tmp_path, case) as build:
        let(build, "load")
        let(build, "warm_up")
        let(build, "video", round=0, prompt=1)
        let(build, "write")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen == [{"do": "warm_up"}, {"do": "video", "round": 0, "prompt": 1}, {"do": "write"}]
    assert not children()


REFUSED = {
    "refuses": "refuses to take turns: sampling.colour is 3",
    "older": "refuses to take turns: No such option: --turns",
    "newer": "by protocol 2, and this one by 1",
    "elsewhere": "imports the one in /elsewhere",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_build_that_cannot_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=REFUSED[case]) as caught, other(tmp_path, case):
        pass
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not children()


FAILED = {
    "dies": "ended with exit code 1: rank 1 failed in denoise step 3: injected",
    "killed": "ended by SIGKILL: it said nothing",
    "confused": "was told to video, and answered",
}


@pytest.mark.parametrize("case", FAILED)
def test_a_build_that_fails_says_why(case: str, tmp_path: Path) -> None:
    with pytest.raises(RankFailure, match=FAILED[case]), other(tmp_path, case) as build:
        let(build, "load")
        let(build, "video", round=0, prompt=0)
    assert not children()


def test_it_ends_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), other(tmp_path, "sleeps") as build:
        let(build, "load")
        build.order("video", round=0, prompt=0)
        assert build.answered(0.2) is None and children()
        raise KeyboardInterrupt
    assert not children()
