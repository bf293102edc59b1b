"""The trace of a request is a file that a viewer opens, and stays small however long the request is."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.execution.tracing import trace, trace_file
from engine.progress import Progress
from engine.request import make_request
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, tiny_config


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[str]]:
    """The folder of a trace, the reports without and with it, and the actions of all steps."""
    folder = tmp_path_factory.mktemp("traced")
    small = ("sampling.steps=14", "sampling.frames=17", "sampling.height=32", "sampling.width=32")
    config = tiny_config("cache.threshold=0.4", *small)
    engine, ranks = Engine(load_model(config, Ranks()), Progress()), Ranks()
    request = make_request([PROMPT], "", 7, config.sampling)
    with trace(folder, ranks.rank, ranks.device) as tracing:
        report = engine.generate(request, folder / "x.mp4", tracing=tracing).report
    plain = engine.generate(request, folder / "y.mp4").report
    assert plain["output"]["frames_sha256"] == report["output"]["frames_sha256"], "tracing changed the video"
    return folder, report, [row["action"] for row in report["steps"] if row["branch"] == "cond"]


def test_the_trace_names_the_parts_of_a_request(traced: tuple[Path, dict, list[str]]) -> None:
    folder, _, actions = traced
    document = json.loads(gzip.decompress(trace_file(folder, 0).read_bytes()))
    spans = [event for event in document["traceEvents"] if event.get("cat") == "user_annotation"]
    names = Counter(event["name"] for event in spans)
    follows_skip = actions.index("skip") + 1
    steps = [0, 1, *range(follows_skip, follows_skip + 4)]
    assert len(actions) > steps[-1] + 1 and follows_skip > 2, (
        f"steps must be left out for the case to show it: {actions}"
    )
    assert [name for name in names if name.startswith("step")] == [f"step {index}" for index in steps]
    assert names["encode"] == 1
    assert names["decode"] == 2, "the small video is decoded in more chunks than that"
    assert names["agreement"] == names["embed"] == names["gather"] == names["probe cond"] == names["probe uncond"] == 6
    assert names["estimate cond"] == sum(actions[index] == "skip" for index in steps) > 0
    assert names["rest cond"] == 6 - names["estimate cond"] > 0
    assert any(event["name"] == "aten::linear" for event in document["traceEvents"])


def test_the_parts_lie_inside_their_steps_on_one_time_axis(traced: tuple[Path, dict, list[str]]) -> None:
    """The trace is made of several sessions of the profiler."""
    document = json.loads(gzip.decompress(trace_file(traced[0], 0).read_bytes()))
    spans = [event for event in document["traceEvents"] if event.get("cat") == "user_annotation"]
    begins = [event["ts"] for event in spans if event["name"].startswith(("encode", "step", "decode"))]
    assert begins == sorted(begins)
    steps = [event for event in spans if event["name"].startswith("step")]
    for agreement in (event for event in spans if event["name"] == "agreement"):
        ends = agreement["ts"] + agreement["dur"]
        assert any(step["ts"] <= agreement["ts"] and ends <= step["ts"] + step["dur"] for step in steps)
