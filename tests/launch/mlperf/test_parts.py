"""The parts of an MLPerf test that start nothing: what the standard prescribes, files that are given, names, tables."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import InvalidInput
from engine.models.catalog import CATALOG
from engine.progress import Progress
from launch.jobs.config import load_job_config
from launch.mlperf import vbench
from launch.mlperf.job import MlperfOptions, prepare_mlperf, video_name
from launch.mlperf.latent import read_latent
from launch.mlperf.settings import Settings
from launch.mlperf.standard import NEGATIVE_PROMPT, Scenario, departures, fewest_queries, standard_sampling
from parallel.place import Place
from tests.support.shell import Refused
from tests.support.small_model import CONFIG, ROOT

A14B = next(model for model in CATALOG if model.hub_id == "Wan-AI/Wan2.2-T2V-A14B-Diffusers").facts
RECIPE = ROOT / "configs" / "mlperf-wan2.2-t2v-a14b.yaml"
SHAPE = (16, 2, 4, 4)


def test_the_recipe_is_the_standard() -> None:
    config = load_job_config(RECIPE)
    assert standard_sampling(config.sampling, A14B, ()) == config.sampling
    assert list(departures(config, A14B, Scenario.SINGLE_STREAM, 248, True)) == []
    assert list(departures(config, A14B, Scenario.OFFLINE, 248, True)) == []
    assert (config.sampling.shift, config.sampling.max_sequence_length) == (3.0, 512)


def test_what_departs_from_the_standard_is_said() -> None:
    config = load_job_config(RECIPE, ["sampling.steps=10", "mlperf.min_duration_seconds=5", "mlperf.queries=7"])
    said = list(departures(config, A14B, Scenario.OFFLINE, 9, False))
    assert [line.split(" is ")[0].split(" are ")[0] for line in said] == [
        "sampling.steps",
        "prompts",
        "the latent",
        "mlperf.min_duration_seconds",
        "the fewest samples",
    ]


def test_the_standards_sampling_takes_the_configurations_place_but_not_the_command_lines() -> None:
    small = load_job_config(CONFIG).sampling
    single = replace(A14B, boundary_timestep=None)
    taken = standard_sampling(small, single, ())
    assert (taken.steps, taken.guidance, taken.low_noise_guidance, taken.height) == (20, 4.0, None, small.height)
    assert standard_sampling(small, A14B, ()).low_noise_guidance == 3.0
    kept = standard_sampling(small, single, ["sampling.steps=3", "model.path=x"])
    assert (kept.steps, kept.guidance) == (small.steps, 4.0)


def test_the_fewest_queries() -> None:
    config = load_job_config(CONFIG)
    assert fewest_queries(config, Scenario.SINGLE_STREAM, 3) == 64
    assert [fewest_queries(config, Scenario.OFFLINE, prompts) for prompts in (3, 248, 900)] == [3, 248, 248]
    asked = load_job_config(CONFIG, ["mlperf.queries=50"])
    assert fewest_queries(asked, Scenario.SINGLE_STREAM, 3) == 50


def test_user_conf_names_what_the_standard_names() -> None:
    lines = Settings(64, 600, 248, 18.0).user_conf(Scenario.SINGLE_STREAM).splitlines()
    assert lines == [
        "wan-2.2-t2v-a14b.SingleStream.min_duration = 600000",
        "wan-2.2-t2v-a14b.SingleStream.min_query_count = 64",
        "wan-2.2-t2v-a14b.SingleStream.performance_sample_count_override = 248",
        "wan-2.2-t2v-a14b.SingleStream.target_latency = 9000.000000",
    ]
    assert "wan-2.2-t2v-a14b.Offline.target_qps = 0.220000" in Settings(8, 1, 8, 20.0, 4).user_conf(Scenario.OFFLINE)


def test_a_latent_is_read_from_torch_and_numpy_files(tmp_path: Path) -> None:
    latent = torch.randn(1, *SHAPE)
    torch.save(latent, tmp_path / "l.pt")
    torch.save(latent[0].to(torch.bfloat16), tmp_path / "half.pth")
    np.save(tmp_path / "l.npy", latent.double().numpy().astype(">f8"))
    assert torch.equal(read_latent(tmp_path / "l.pt", SHAPE), latent)
    assert torch.equal(read_latent(tmp_path / "l.npy", SHAPE), latent)
    half = read_latent(tmp_path / "half.pth", SHAPE)
    assert half.dtype == torch.float32 and torch.equal(half, latent.to(torch.bfloat16).float())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('was_run', 'w')",))


@pytest.mark.parametrize(
    "what", ["missing", "folder", "suffix", "evil", "damaged", "shape", "whole", "dict", "nan", "large", "pickled"]
)
def test_another_latent_is_refused_in_a_sentence(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("l.npy" if what == "pickled" else "l.txt" if what == "suffix" else "l.pt")
    latent = torch.randn(SHAPE)
    if what == "folder":
        path.mkdir()
    elif what == "evil":
        path.write_bytes(pickle.dumps(Evil()))
    elif what == "damaged":
        torch.save(latent, path)
        path.write_bytes(path.read_bytes()[:500])
    elif what == "pickled":
        np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)
    elif what != "missing":
        content = {
            "shape": torch.randn(16, 2, 4, 5),
            "whole": torch.zeros(SHAPE, dtype=torch.int64),
            "dict": {"latent": latent},
            "nan": latent.index_fill(0, torch.tensor([3]), float("nan")),
            "large": torch.zeros(2**21 // 4 + 2**20),
        }.get(what, latent)
        torch.save(content, path)
    with pytest.raises(InvalidInput) as refused:
        read_latent(path, SHAPE)
    message = str(refused.value)
    assert message.startswith("--latent is ") and message.endswith(".") and "\n" not in message
    assert not Path("was_run").exists()


def test_a_videos_name_is_its_prompt_as_vbench_looks_for_it() -> None:
    prompt = "A panda drinking coffee in a cafe in Paris, pixel art"
    assert video_name(prompt) == prompt
    assert "/" not in video_name("a/b") and len(video_name("ü" * 500).encode()) < 250
    assert video_name("ü" * 500) != video_name("ü" * 501)


def test_vbench_reads_scores_and_names_what_is_missing(tmp_path: Path) -> None:
    assert len(vbench.missing_weights(tmp_path)) == 7
    (tmp_path / "amt_model").mkdir()
    (tmp_path / "amt_model" / "amt-s.pth").touch()
    assert "amt_model/amt-s.pth" not in vbench.missing_weights(tmp_path)
    file = tmp_path / "results.json"
    file.write_text(str({name: [0.7, []] for name in vbench.DIMENSIONS}).replace("'", '"'))
    scores = vbench.read_scores(file)
    assert scores["mean"] == pytest.approx(70.0) and scores["reached"] and scores["least"] == 69.7752
    assert vbench._problem_with("/no/such/python").startswith("mlperf.vbench_python is '/no/such/python'")


PACKAGE = """
import json, os
class VBench:
    def __init__(self, device, info, output):
        self.info, self.output = info, output
    def evaluate(self, videos, name, dimension_list, local):
        assert local and os.path.isdir(videos) and json.load(open(self.info)) == []
        os.makedirs(self.output, exist_ok=True)
        scores = {dimension: [0.5 if "cache_on" in videos else 0.75, []] for dimension in dimension_list}
        json.dump(scores, open(os.path.join(self.output, name + "_eval_results.json"), "w"))
"""
TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\ndevice = str\n"


def test_vbench_scores_both_runs_in_a_python_of_its_own(
    options: MlperfOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of the same interface stands in for VBench, which is large."""
    (package := Path("other", "vbench")).mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE)
    (package / "VBench_full_info.json").write_text("[]")
    Path("other", "torch.py").write_text(TORCH)
    python = Path("python").resolve()
    python.write_text(f'#!/bin/sh\nPYTHONPATH={Path("other").resolve()} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    overrides = (*options.overrides, "mlperf.mode=accuracy", f"mlperf.vbench_python={python}")
    job = prepare_mlperf(replace(options, overrides=overrides), Place())
    for cache in job.caches:
        (job.folder / "videos" / cache).mkdir(parents=True)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(Path("weights").resolve()))
    assert "dino_vitbase16_pretrain.pth" in vbench.score(job, Progress())["missing"]
    for name in vbench.missing_weights(Path("weights")):
        Path("weights", name).parent.mkdir(parents=True, exist_ok=True)
        Path("weights", name).touch()
    scores = vbench.score(job, Progress())
    assert (scores["cache_off"]["mean"], scores["cache_off"]["reached"]) == (75, True)
    assert (scores["cache_on"]["mean"], scores["cache_on"]["reached"]) == (50, False)
    package.joinpath("__init__.py").write_text("raise ImportError('no decord')")
    assert "no decord" in vbench.score(job, Progress())["missing"]


REFUSED = {
    "no prompts": ({"prompts_file": None}, (), "--mlperf needs prompts"),
    "replicas": ({}, ("parallel.data=2",), "parallel.data is 2"),
    "checkpoints": ({}, ("checkpoint.every=2",), "checkpoint.every"),
    "latent": ({"latent": Path("no.pt")}, (), "no.pt"),
    "folder": ({"output": Path("prompts.txt")}, (), "prompts.txt"),
    "cache": ({}, ("cache.probe_depth=99",), "probe_depth is 99"),
    "results": ({"output": Path("old")}, (), "results of an earlier test"),
    "queries": ({}, ("mlperf.queries=0",), "mlperf.queries"),
    "twins": ({"prompts_file": Path("twins.txt")}, ("mlperf.mode=accuracy",), "twice"),
    "two experts": ({}, ("sampling.low_noise_guidance=3.0",), "no second transformer"),
}


@pytest.fixture
def options(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> MlperfOptions:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red circle\na blue square\n")
    Path("twins.txt").write_text("a red circle\na red circle\n")
    Path("old").mkdir()
    Path("old/mlperf.json").write_text("{}")
    small = ["sampling.frames=5", "sampling.height=32", "sampling.width=32", "runtime.device=cpu"]
    overrides = (f"model.path={tiny_checkpoint}", *small)
    return MlperfOptions(str(CONFIG), Scenario.SINGLE_STREAM, Path("prompts.txt"), Path("results"), overrides)


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_sentence(what: str, options: MlperfOptions) -> None:
    changes, overrides, word = REFUSED[what]
    with pytest.raises(InvalidInput) as refused:
        prepare_mlperf(replace(options, **changes, overrides=(*options.overrides, *overrides)), Place())
    message = str(refused.value)
    assert "\n" not in message and word in message and message[-1] in ".?"
    assert not Path("results").exists()


def test_a_job_has_the_standards_requests_and_two_caches(options: MlperfOptions) -> None:
    job = prepare_mlperf(options, Place())
    assert list(job.caches) == ["cache_off", "cache_on"] and job.config.cache.method == "none"
    assert job.caches["cache_off"].method == "none" and job.caches["cache_on"].method == "dicache"
    first, second = job.requests
    assert first.sampling.steps == 20 and first.sampling.guidance == 4.0 and first.seed == second.seed == 42
    assert first.negative_prompt == NEGATIVE_PROMPT and second.prompts == ("a blue square",)
    assert any(note == "sampling as MLPerf has it: steps 50 → 20, guidance 5 → 4" for note in job.notes), job.notes
    shared = replace(options, scenario=Scenario.OFFLINE, overrides=(*options.overrides, "parallel.data=2"))
    assert prepare_mlperf(shared, Place()).config.parallel.degrees.data == 2
    chosen = replace(shared, overrides=(*options.overrides, "parallel=auto"))
    assert prepare_mlperf(chosen, Place(2)).config.parallel.degrees.data == 2, "Offline wants throughput"
    single = replace(chosen, scenario=Scenario.SINGLE_STREAM)
    assert prepare_mlperf(single, Place(2)).config.parallel.degrees.data == 1
    plain = prepare_mlperf(replace(options, overrides=(*options.overrides, "cache.method=none")), Place())
    assert list(plain.caches) == ["cache_off"] and any("cache.method is none" in note for note in plain.notes)


COMMANDS = {
    "scenario": (["--mlperf=server"], "--mlperf is 'server': use singlestream or offline"),
    "rounds": (["--mlperf=offline", "--rounds=3"], "--rounds has no use beside --mlperf"),
    "negative prompt": (["--mlperf=offline", "--negative-prompt=x"], "--negative-prompt has no use"),
    "a cluster without ray": (["--mlperf=offline", "--prompts=p.txt", "--ray-address=a:1"], "add --launcher ray"),
    "latent alone": (["--latent=l.pt"], "--latent is 'l.pt'"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_options_that_do_not_go_together_are_refused(what: str, refused: Refused) -> None:
    arguments, word = COMMANDS[what]
    assert word in refused(["bench", str(CONFIG), "--output=results", *arguments])
