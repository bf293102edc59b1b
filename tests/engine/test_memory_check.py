"""Whether a job fits is known before a weight is read, and what is said where it does not."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.checks import memory as checks
from engine.checks.preflight import preflight
from engine.config import Config
from engine.config_file import load_config
from engine.cost import host
from engine.cost.advice import advise, what_fits
from engine.cost.host import choose_copies, copied_bytes
from engine.cost.job import Job
from engine.cost.memory import fits, room
from engine.engine import Engine
from engine.errors import InvalidInput, MachineUnfit, OutOfMemory
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG, PublishedModel
from engine.models.facts import read_facts
from engine.models.published import row_of
from engine.progress import Progress
from engine.request import Outputs, make_request, make_tasks
from launch.process.failures import describe
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.small_model import PROMPT, ROOT, tiny_config

BY_NAME = {model.name: model for model in CATALOG}
RECIPE = ROOT / "configs"
ONE, ALONE = Degrees(), Place(1)
LARGEST = Degrees(cfg=2, ulysses=8, ring=4)  # no layout is advised beyond


def job(name: str, degrees: Degrees = ONE, video: tuple[int, int, int] | None = None, **changes: object) -> Job:
    model = BY_NAME[name]
    return replace(Job(model, video or model.video, model.facts.num_branches(6.0), degrees), **changes)  # type: ignore[arg-type]


def test_what_the_issue_asks_of_small_cards_computed() -> None:
    wan, hunyuan = job("Wan 2.1 T2V 14B", video=(81, 480, 832)), job("HunyuanVideo")
    assert not wan.fits(24e9) and not hunyuan.fits(40e9)
    assert replace(wan, offload="blocks").fits(24e9)
    assert replace(hunyuan, offload="blocks").fits(40e9)


def test_blocks_leave_two_blocks_and_what_is_outside() -> None:
    memory = job("Wan 2.1 T2V 14B", offload="blocks").memory(24e9)
    assert 1.2e9 < memory.transformer < 2.2e9 and memory.waiting == 2 * 14_288_491_584
    both = job("Wan 2.2 T2V A14B", offload="blocks").memory(24e9)
    assert both.waiting == 2 * memory.waiting, "both experts' blocks wait"
    assert memory.transformer < both.transformer < 1.5 * memory.transformer


@pytest.mark.parametrize(("card", "settled"), [(80e9, "experts"), (141e9, "none")])
def test_auto_keeps_both_experts_where_they_fit(card: float, settled: str) -> None:
    a14b = job("Wan 2.2 T2V A14B")
    assert a14b.settled(card) == settled
    assert a14b.memory(card).waiting == (0 if settled == "none" else 4 * 14_288_491_584)
    assert a14b.needed() == replace(a14b, offload="experts").needed(), "what must fit is the least"
    assert fits(a14b.memory(card).peak, card)


def test_wan_decodes_in_tiles_where_strips_do_not_fit() -> None:
    asked = job("Wan 2.1 T2V 14B", offload="blocks", cached_tensors=0)
    whole, tiled = (replace(asked, vae_tiling=tiling) for tiling in (False, True))
    assert asked.memory(48e9) == whole.memory(48e9), "whole frames where there is room"
    assert asked.memory(24e9) == tiled.memory(24e9) and tiled.memory(24e9).decode < 0.2 * whole.memory(24e9).decode
    assert asked.fits(24e9) and tiled.fits(24e9) and not whole.fits(24e9)
    assert "model.vae_tiling=auto" in what_fits(whole, 24e9)


def test_whole_frames_of_hunyuan_video_are_refused_where_tiles_fit() -> None:
    asked = job("HunyuanVideo", offload="blocks", vae_bytes=4)
    whole, tiled = (replace(asked, vae_tiling=tiling) for tiling in (False, True))
    assert asked.memory(48e9) == tiled.memory(48e9) == asked.memory(200e9), "auto is in tiles, whatever the card"
    assert asked.fits(48e9) and not whole.fits(48e9) and whole.fits(96e9)
    assert "model.vae_tiling=auto" in what_fits(whole, 48e9)


def test_weights_in_files_of_their_own_are_counted(tmp_path: Path) -> None:
    config = tiny_config()
    facts, folder = read_facts(config.model.path), Path(config.model.path)
    counted = row_of(config, facts).parameters
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert row_of(tiny_config(f"model.single_files={{transformer: {file}}}"), facts).parameters == counted
    packed = tiny_config(f"model.single_files={{transformer: {tmp_path}/a.gguf, transformer_2: {tmp_path}/b.gguf}}")
    two = replace(facts, boundary_timestep=875.0)
    like = BY_NAME["Wan 2.1 T2V 1.3B"].parameters["transformer"]
    # as of the published model with the largest activations, which has one transformer
    assert two.transformers == ("transformer", "transformer_2")
    assert row_of(packed, two).parameters == {**counted, "transformer": like, "transformer_2": like}


def test_encoders_stay_where_there_is_room() -> None:
    wan = job("Wan 2.1 T2V 14B")
    assert not wan.others_stay(48e9) and wan.others_stay(80e9)
    memory = wan.memory(80e9)
    assert memory.peak_with_all == memory.transformer + memory.all_encoders + max(
        memory.vae + memory.cache + memory.step, memory.decode
    )


ADVICE = {
    "shared out": (job("Wan 2.1 T2V 14B", Degrees(ulysses=2)), 44e9, "parallel.shard_weights=true"),
    "blocks": (job("Wan 2.1 T2V 14B"), 40e9, "runtime.offload=blocks"),
    "experts": (job("Wan 2.2 T2V A14B", offload="none"), 80e9, "runtime.offload=experts"),
    "more ranks": (job("Wan 2.1 T2V 14B"), 24e9, "2 ranks and parallel=auto and runtime.offload=blocks"),
    "smaller": (job("Wan 2.1 T2V 14B", LARGEST, (161, 2160, 3840), shard_weights=True), 12e9, "sampling.height="),
}


@pytest.mark.parametrize("case", ADVICE)
def test_the_nearest_setting_that_fits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, card, expected = ADVICE[case]
    assert not asked.fits(card)
    found = what_fits(asked, card)
    assert expected in found, found
    (gigabytes,) = map(float, re.findall(r"\(([\d.]+) GB\)", found))
    assert gigabytes <= room(card) / 1e9 + 0.05
    text = advise(asked, card)
    assert text.count(". ") == 0 and text.endswith(".") and asked.model.name in text
    assert f"{asked.needed() / 1e9:.1f} GB" in text and f"{card / 1e9:.1f} GB" in text


def test_what_is_advised_fits_and_nothing_before_it() -> None:
    asked = job("Wan 2.1 T2V 14B")
    assert "blocks" in what_fits(asked, 40e9) and replace(asked, offload="blocks").fits(40e9)
    assert not replace(asked, shard_weights=True).fits(40e9), "one rank shares with nobody"
    assert what_fits(asked, 4e9) == "use a larger card, or a smaller model"


def with_card(patch: pytest.MonkeyPatch, card: float, memory: float = 1e12) -> None:
    patch.setattr(checks, "card_bytes", lambda index=0, look=True: card)
    patch.setattr(checks, "_has_card", lambda config: True)
    patch.setattr(checks, "host_bytes", lambda: memory)


def check(config: Config, model: PublishedModel, degrees: Degrees = ONE, place: Place = ALONE) -> None:
    checks.check_memory(config, config.sampling, model.facts, degrees, place)


@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.name)
def test_every_recipe_is_refused_on_a_small_card_and_taken_on_a_large_one(
    model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(RECIPE / model.recipe)
    with_card(monkeypatch, 12e9)
    with pytest.raises(MachineUnfit, match=r"needs [\d.]+ GB on a card .*: use .*\.$"):
        check(config, model)
    with_card(monkeypatch, 80e9)
    check(config, model)


def test_host_copies_are_counted_for_all_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    config, model = load_config(RECIPE / "wan2.2-t2v-a14b.yaml"), BY_NAME["Wan 2.2 T2V A14B"]
    with_card(monkeypatch, 60e9, memory=256e9)
    check(config, model)
    degrees, place = Degrees(cfg=2, ulysses=4), Place(8, local_ranks=8)
    check(config, model, degrees, place)  # in one copy
    with_card(monkeypatch, 60e9, memory=64e9)
    with pytest.raises(
        MachineUnfit,
        match=r"keeps 7\d GB .* for 8 ranks, in one copy, and this machine has 64 GB, .*: use parallel\.shard",
    ):
        check(config, model, degrees, place)
    check(load_config(RECIPE / "wan2.2-t2v-a14b.yaml", ["parallel.shard_weights=true"]), model, degrees, place)


def test_copies_are_shared_where_own_ones_do_not_fit() -> None:
    shared, card = job("Wan 2.2 T2V A14B", Degrees(cfg=2, ulysses=4)), 60e9
    memory = shared.memory(card)
    experts, vae, encoder = memory.waiting, memory.vae, memory.all_encoders
    assert experts == 2 * 2 * 14_288_491_584
    assert copied_bytes(shared, card, 8, "own") == 8 * (experts + vae) + encoder
    assert copied_bytes(shared, card, 8, "shared") == experts + 8 * vae + encoder
    assert copied_bytes(replace(shared, degrees=Degrees(data=8)), card, 8, "own") == 8 * (experts + vae + encoder)
    assert copied_bytes(replace(shared, degrees=Degrees(data=8)), card, 8, "shared") == experts + 8 * vae + encoder
    found = [choose_copies(shared, card, 8, size) for size in (1e12, 540e9, 500e9, 84e9, 80e9)]
    assert found == ["own", "own", "shared", "shared", None], "and a tenth stays free"
    parts = replace(job("Wan 2.1 T2V 14B", Degrees(data=2, ulysses=4)), shard_weights=True)
    assert copied_bytes(parts, card, 8, "shared") == copied_bytes(parts, card, 8, "own"), "of encoders each has a part"


LIMITS = {
    "version 2": ("0::/a/b\n", {"a/memory.max": "5000", "a/b/memory.max": "max", "memory.max": "9000"}, [5000, 9000]),
    "version 1": (
        "9:name=systemd:/x\n4:cpu,memory:/x\n0::/\n",
        {"memory/x/memory.limit_in_bytes": "7000", "memory/memory.limit_in_bytes": "8000", "x/memory.max": "1"},
        [7000, 8000],
    ),
    "a path of the host": ("0::/../host\n", {"memory.max": "6000"}, [6000]),
    "none": ("", {}, []),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limits_of_containers(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, files, expected = LIMITS[case]
    root = tmp_path / "root"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (tmp_path / "cgroup").write_text(groups)
    assert list(host._limits(root, tmp_path / "cgroup")) == expected
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=5500))
    monkeypatch.setattr(host, "_limits", lambda: iter(expected))
    assert host.host_bytes() == min([5500, *expected])


def test_it_is_checked_before_a_weight_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tiny_config("runtime.device=auto")
    tasks = make_tasks([PROMPT], "", [0], config.sampling, Outputs(tmp_path / "out.mp4"))
    preflight(config, tasks, Place(1))
    with_card(monkeypatch, 2e9)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(InvalidInput, match="needs"):
        preflight(config, tasks, Place(1))
    preflight(config, tasks, Place(1, elsewhere=True))


def test_what_does_not_go_together_is_refused_and_what_has_no_effect_is_said(tmp_path: Path) -> None:
    config = tiny_config("runtime.offload=blocks", "parallel.shard_weights=true")
    tasks = make_tasks([PROMPT], "", [0], config.sampling, Outputs(tmp_path / "out.mp4"))
    with pytest.raises(
        InvalidInput, match=r"^runtime\.offload is blocks, but parallel\.shard_weights .*use one of the two\.$"
    ):
        preflight(config, tasks, Place(2))
    line = "runtime.offload=blocks has no effect on the CPU: all weights are in its memory"
    assert line in preflight(config, tasks, Place(1)).notes
    assert not preflight(tiny_config(), tasks, Place(1)).notes


def run_out(*args: object, **kwargs: object) -> object:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


STAGES: dict[str, str] = {
    "encode": "engine.generation.generation.encode",
    "denoise": "engine.generation.denoising.denoise",
    "decode": "engine.generation.generation.decode_videos",
}


@pytest.mark.parametrize("stage", STAGES)
def test_running_out_of_memory_names_the_stage(stage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tiny_config("sampling.steps=2", "sampling.frames=5", "cache.method=none")
    engine = Engine(load_model(config, Ranks()), Progress())
    monkeypatch.setattr(STAGES[stage], run_out)
    with pytest.raises(OutOfMemory) as caught:
        engine.generate(make_request([PROMPT], "", 0, config.sampling), tmp_path / "out.mp4")
    said(describe(caught.value, 3, stage), stage)


def test_running_out_of_memory_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.engine.load_model", run_out)
    config = tiny_config("parallel.ulysses=1", "parallel.ring=1")
    with pytest.raises(OutOfMemory) as caught:
        Engine.load(config)
    said(describe(caught.value, 3, "load"), "load")


def said(failure: object, stage: str) -> None:
    text = str(failure)
    assert text.startswith(f"rank 3 failed in {stage}: The card has no memory left in {stage}, where tiny_wan"), text
    assert ": use " in text and text.endswith(".") and "Tried" not in text
