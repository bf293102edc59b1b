"""Checks before weights load, on model folders that hold no weights worth the name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.checks.preflight import preflight
from engine.config import Config
from engine.config_file import load_config
from engine.denoise.guidance import all_lanes
from engine.errors import InvalidInput
from engine.models.facts import read_facts
from engine.request import Outputs, make_tasks
from parallel.degrees import Degrees
from parallel.place import Place
from tests.support.bare_model import INDEX, add_second, write_bare_model, write_json

UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bare_model(tmp_path / "model")


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Callable[..., Config]:
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {{path: {model}}}\nsampling: {{height: 64, width: 64, frames: 17, steps: 4}}\n")
    return lambda *overrides: load_config(file, ["runtime.device=cpu", *overrides])


def check(config: Config, ranks: int | None = 1, outputs: Outputs = Outputs()) -> Degrees:  # noqa: B008
    return preflight(config, make_tasks(["x"], "", [0], config.sampling, outputs), Place(ranks)).degrees


def refusal(config: Config, ranks: int | None = 1, outputs: Outputs = Outputs()) -> str:  # noqa: B008
    with pytest.raises(InvalidInput) as caught:
        check(config, ranks, outputs)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_what_fits_passes(config: Callable[..., Config], model: Path) -> None:
    assert check(config()) == Degrees()
    assert check(config("parallel.cfg=2", "parallel.ulysses=2", "parallel.ring=3"), ranks=12).world_size == 12
    assert check(config("parallel.cfg=2"), ranks=None).world_size == 2
    facts = read_facts(model)
    assert (facts.num_heads, facts.num_layers, facts.patch_size) == (4, 3, (1, 2, 2))
    assert facts.token_grid(frames=17, height=64, width=96) == (5, 4, 6)


@pytest.mark.parametrize(
    ("overrides", "ranks", "words"),
    [
        (["sampling.frames=16"], 1, ["16", "4n+1", "13 or 17"]),
        (["sampling.frames=2"], 1, ["1 or 5"]),
        (["sampling.frames=257"], 1, ["257", "65", "64"]),
        (["sampling.height=72"], 1, ["height", "72", "16", "64 or 80"]),
        (["sampling.width=15"], 1, ["width", "15", "use 16"]),
        (["sampling.width=1040"], 1, ["width", "1040", "65"]),
        (["sampling.max_sequence_length=513"], 1, ["max_sequence_length is 513", "Wan", "at most 512", "use 512"]),
        (["parallel.ulysses=3"], 3, ["3", "4", "heads"]),
        (["parallel.ulysses=2"], 3, ["2", "3 ranks"]),
        (["parallel.cfg=3"], 3, ["parallel.cfg", "3"]),
        (["parallel.cfg=2", "sampling.guidance=1"], 2, ["parallel.cfg", "guidance", "1"]),
        (["parallel.data=2"], 2, ["parallel.data is 2", "1 video "]),
        ([], 0, ["--ranks", "0"]),
        (["parallel=auto", "sampling.frames=1", "sampling.height=16", "sampling.width=16"], 4, ["1 tokens", "2 ranks"]),
        ([], -2, ["--ranks", "-2"]),
        (["sampling.frames=1", "sampling.height=16", "sampling.width=16"], 2, ["1 tokens", "2 ranks"]),
        (["cache.probe_depth=3"], 1, ["probe_depth", "3", "3 blocks", "at most 2"]),
        (["cache.method=interval", "cache.gate.compute_steps=[0, 99]"], 1, ["compute_steps", "99"]),
        (["cache.method=magcache"], 1, ["magcache", "Wan2.1-T2V-14B", "cache.gate.ratios", "easycache"]),
        (
            ["cache.method=teacache", "cache.gate.use_ret_steps=true"],
            1,
            ["teacache", "polynomials", "cache.gate.polynomial"],
        ),
        (
            ["cache.method=teacache", "cache.gate.polynomial=[1.0, 0.0]", "cache.gate.signal=modulated_input"],
            1,
            ["cache.gate.signal is modulated_input", "Wan", "timestep_embedding or timestep_modulation"],
        ),
        (["runtime.attention=flash"], 1, ["flash", "cpu"]),
        (["runtime.attention=efficient"], 1, ["efficient", "cpu", "auto or sdpa"]),
        (["runtime.attention=sage", "parallel.ring=2"], 2, ["sage", "parallel.ring is 2", "log-sum-exp"]),
        (["runtime.attention=cudnn", "runtime.deterministic=true"], 1, ["cudnn", "runtime.deterministic is true"]),
        (["runtime.attention=flash", "runtime.device=auto", "model.dtype=float32"], 1, ["flash", "float32"]),
    ],
)
def test_what_does_not_fit(overrides: list[str], ranks: int, words: list[str], config: Callable[..., Config]) -> None:
    sentence = refusal(config(*overrides), ranks)
    for word in words:
        assert word in sentence


def test_a_layout_chosen_for_the_machine(config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(config("parallel=auto"), ranks=8) == Degrees(cfg=2, ulysses=4)
    assert check(config("parallel=auto", "sampling.guidance=1"), ranks=8) == Degrees(ulysses=4, ring=2)
    assert check(config("parallel=auto"), ranks=None) == Degrees(), "one CPU"
    assert check(config("parallel=auto", "parallel.ring=3"), ranks=None) == Degrees(ring=3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert check(config("parallel=auto", "runtime.device=auto"), ranks=None) == Degrees(cfg=2, ulysses=4)
    assert check(config("parallel=auto"), ranks=None) == Degrees(), "the devices are there, but not asked for"


def test_ranks_on_several_nodes(config: Callable[..., Config]) -> None:
    def on_nodes(ranks: int, local_ranks: int, nodes: int | None = None) -> Degrees:
        checked = config()
        tasks = make_tasks(["x"], "", [0], checked.sampling, Outputs())
        return preflight(checked, tasks, Place(ranks, local_ranks=local_ranks, nodes=nodes)).degrees

    assert on_nodes(8, local_ranks=8) == Degrees(ulysses=4, ring=2)
    assert on_nodes(8, local_ranks=2) == on_nodes(8, 2, nodes=4) == Degrees(ulysses=2, ring=4)
    for local_ranks, nodes, counted in [(1, 3, 3), (2, 2, 2), (4, None, 2)]:
        with pytest.raises(InvalidInput, match=f"6 ranks on {counted} nodes, but {local_ranks} on this one"):
            on_nodes(6, local_ranks, nodes)


def test_a_model_with_distilled_guidance_has_one_branch(config: Callable[..., Config], model: Path) -> None:
    facts = read_facts(model)
    assert not facts.guidance_distilled
    for guidance in (0.0, 1.0, 1.01, 5.0):
        assert len(all_lanes(1, facts.num_branches(guidance))) == (2 if guidance > 1 else 1), "as diffusers decides it"
    file = model / "transformer" / "config.json"
    write_json(file, json.loads(file.read_text()) | {"guidance_embeds": True})
    facts = read_facts(model)
    assert facts.guidance_distilled and facts.num_branches(5.0) == 1
    sentence = refusal(config("parallel.cfg=2"), ranks=2)
    for word in ["parallel.cfg is 2", "WanPipeline", str(model), "guidance_embeds", "1 branch", "parallel.cfg=1"]:
        assert word in sentence
    assert check(config("parallel=auto"), ranks=8) == Degrees(ulysses=4, ring=2)


def test_no_cuda(config: Callable[..., Config]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        assert "share" in refusal(config("runtime.device=cuda"), ranks=4 * torch.cuda.device_count())
    else:
        assert "runtime.device is cuda" in refusal(config("runtime.device=cuda"))


def test_a_method_that_probes_nothing_takes_no_depth(config: Callable[..., Config]) -> None:
    check(config("cache.method=none"))
    for method in ("none", "interval"):
        with pytest.raises(InvalidInput, match=rf"cache\.probe_depth is 3, but .* is {method}.*: leave it out"):
            config(f"cache.method={method}", "cache.probe_depth=3")


def test_two_transformers_are_told_apart_from_one_that_names_a_boundary(model: Path) -> None:
    add_second(model)
    facts = read_facts(model)
    assert facts.boundary_timestep == 875 and facts.transformers == ("transformer", "transformer_2")
    for index in ({"boundary_ratio": 0.9}, {"transformer_2": [None, None], "boundary_ratio": 0.9}):
        write_json(model / "model_index.json", INDEX | index)
        assert read_facts(model).transformers == ("transformer",)
    shutil.rmtree(model / "transformer_2")
    add_second(model, boundary_ratio=None)
    assert read_facts(model).transformers == ("transformer",)


def test_settings_of_a_second_transformer(model: Path, config: Callable[..., Config]) -> None:
    for word in ("low_noise_guidance is 3,", "no second transformer"):
        assert word in refusal(config("sampling.low_noise_guidance=3"))
    add_second(model)
    write_json(model / "scheduler" / "scheduler_config.json", UNIPC)
    check(config("sampling.low_noise_guidance=3"))
    check(config("sampling.low_noise_guidance=0.5", "sampling.guidance=1"))
    assert "guidance above 1" in refusal(config("sampling.low_noise_guidance=3", "sampling.guidance=1"))


def test_a_report_that_skips_the_first_step_of_the_second_transformer(
    model: Path, config: Callable[..., Config], tmp_path: Path
) -> None:
    """10 steps with flow shift 3: the first four are at 875 and above."""
    add_second(model)
    write_json(model / "scheduler" / "scheduler_config.json", UNIPC)
    report, overrides = tmp_path / "run.json", ("sampling.steps=10", "sampling.shift=3", "sampling.guidance=1")
    for skipped, words in ((3, ()), (4, ("skips step 4", "compute step 4"))):
        rows = [{"step": i, "branch": "cond", "action": "skip" if i == skipped else "compute"} for i in range(10)]
        write_json(report, {"steps": rows})
        checked = config(f"cache.replay={report}", *overrides)
        if not words:
            check(checked)
        for word in words:
            assert word in refusal(checked)


def test_outputs(config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere" / "x.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    new = tmp_path / "x" / "y"
    check(config(), 1, Outputs(new / "v.mp4", new / "v.json", new / "v.safetensors"))
    assert not (tmp_path / "x").exists(), "a check creates nothing"
    for outputs, words in [
        (Outputs(video=tmp_path / "a.mp4"), ["--output", "folder"]),
        (Outputs(video=tmp_path / "pipe.mp4"), ["--output", "not an ordinary file"]),
        (Outputs(video=tmp_path / "v.mov"), ["--output", "v.mov", ".mp4"]),
        (Outputs(video=tmp_path / "v"), ["--output", ".mp4"]),
        (Outputs(video=tmp_path / "file" / "v.mp4"), ["--output", "file"]),
        (Outputs(video=Path("/proc/new/v.mp4")), ["--output", "not writable"]),  # permission bits say root may
        (Outputs(video=Path("a\0b.mp4")), ["--output"]),
        (Outputs(report=tmp_path / "r.yaml"), ["--report", ".json"]),
        (Outputs(latents=tmp_path / "l.bin"), ["--latents", ".safetensors"]),
    ]:
        sentence = refusal(config(), 1, outputs)
        for word in words:
            assert word in sentence
    check(config(), 1, Outputs(video=tmp_path / "link.mp4"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; /proc above stands in for it")
def test_a_folder_without_permission(config: Callable[..., Config], tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    assert "not writable" in refusal(config(), 1, Outputs(video=folder / "v.mp4"))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": 1}', '{"steps": 3}', '{"steps": [{"step": 0}]}'])
def test_a_replay_file(content: str | None, config: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "replay.json"
    if content is not None:
        file.write_text(content)
    assert "replay.json" in refusal(config(f"cache.replay={file}"))
