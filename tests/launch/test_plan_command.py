"""`lockstep plan`: what it prints, writes and refuses, and what it learns from a bench."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.bench.document import BenchDocument, Measured, Spread, Startup, StepSeconds
from launch.jobs.config import load_job_config
from launch.planner.calibration import _is_named, calibrate
from launch.planner.cluster import parse_cluster
from launch.planner.document import PlanDocument
from launch.planner.predict import Prediction, predict
from launch.planner.software import Software, Speeds
from launch.planner.steps import Plan
from launch.planner.workload import make_workload
from parallel.degrees import Degrees
from tests.support.small_model import CONFIG, ROOT
from tests.support.typed import Command, command

typed = pytest.fixture(command)
RECIPE = str(ROOT / "configs" / "wan2.2-t2v-a14b.yaml")
EIGHT = ("plan", RECIPE, "--cluster", "1x8xH100")


def test_a_plan_is_printed_and_written(typed: Command, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = typed(*EIGHT, "--report", str(file), "--price-per-gpu-hour", "2")
    assert (done.code, done.err) == (0, "")
    for words in (
        "predicted",
        "Wan 2.2 T2V A14B",
        "cfg 2 x ulysses 4",
        "is the fastest",
        "limits",
        "many: videos/h",
        "512",
    ):
        assert words in done.out
    document = json.loads(file.read_text())
    assert PlanDocument.model_validate(document).predicted
    seconds = document["seconds_per_video"]
    assert 0 < seconds["cache_on"] < seconds["cache_off"]
    assert document["videos_per_hour"] == pytest.approx(3600 / seconds["cache_on"])
    assert document["cost_per_video"] == pytest.approx(2 * 8 * seconds["cache_on"] / 3600)
    assert 5e9 < document["memory_bytes_per_gpu"] < 8e10 and document["fits"]
    assert {name: document["layout"][name] for name in ("data", "cfg", "ulysses", "ring")} == {
        "data": 1, "cfg": 2, "ulysses": 4, "ring": 1,
    }  # fmt: skip
    assert set(document["limits"]["by_group"]) == {"compute", "link", "decode", "fixed"}
    assert sum(document["limits"]["by_group"].values()) == pytest.approx(seconds["cache_on"])
    assert [row["gpus"] for row in document["scaling"]] == [2**n for n in range(10)]


def test_given_degrees_are_kept(typed: Command, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    given = ("--set", "parallel.ring=4", "--set", "parallel.shard_weights=false")
    assert typed(*EIGHT, "--report", str(file), *given).code == 0
    layout = json.loads(file.read_text())["layout"]
    assert layout["ring"] == 4 and layout["shard_weights"] is False


@pytest.mark.parametrize(
    ("section", "layout"),
    [("{cfg: 1}", {"cfg": 1, "ulysses": 8, "ring": 1}), ("auto", {"cfg": 2, "ulysses": 4, "ring": 1}),
     ("{ulysses: 3}", None)],
)  # fmt: skip
def test_what_the_configuration_itself_asks_for_is_predicted_too(
    typed: Command, tmp_path: Path, section: str, layout: dict[str, int] | None
) -> None:
    """A bench runs the configuration's own layout, which may be another than the one that is recommended."""
    file, own = tmp_path / "plan.json", tmp_path / "own.yaml"
    own.write_text(Path(RECIPE).read_text().replace("parallel: auto", f"parallel: {section}", 1))
    done = typed("plan", str(own), "--cluster", "1x8xH100", "--report", str(file))
    document = json.loads(file.read_text())
    assert done.code == 0
    if layout is None:
        assert document["configured"] is None and "configured" not in done.out
        return
    assert ("configured" in done.out) == (document["configured"]["layout"] != document["layout"])
    assert {name: document["configured"]["layout"][name] for name in layout} == layout
    assert document["configured"]["seconds_per_video"]["cache_on"] >= document["seconds_per_video"]["cache_on"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--cluster", "1x8xH101"), "'H101', which is not known: use one of A100, H100"),
        (("--cluster", "0x8xH100"), "has no GPU"),
        (("--cluster", "1x8xH100", "--price-per-gpu-hour", "-1"), "--price-per-gpu-hour is -1, but it should be"),
        (("--cluster", "1x8xH100", "--price-per-gpu-hour", "nan"), "--price-per-gpu-hour is nan"),
        (("--cluster", "1x8xH100", "--goal", "deadline"), "there is no --deadline"),
        (("--cluster", "1x8xH100", "--goal", "deadline", "--deadline", "0"), "--deadline is 0, but it should be"),
        (("--cluster", "1x8xH100", "--goal", "deadline", "--deadline", "1"), "the best there is takes"),
        (("--cluster", "1x8xH100", "--deadline", "60"), "use --goal deadline"),
        (("--cluster", "1x7xH100", "--set", "parallel.ulysses=7"), "40 attention heads"),
        (("--cluster", "1x8xH100", "--set", "parallel.cfg=3"), "No layout of 8 ranks keeps to"),
        (("--cluster", "1x1xL40S"), "fits on no layout of 1x1xL40S"),
        (("--cluster", "1x8xH100", "--precision", "fp4"), "H100 has no matrix arithmetic for: use one of bf16, fp8"),
        (("--cluster", "1x8xH100", "--skip-share", "1.5"), "--skip-share is 1.5"),
        (("--cluster", "1x8xB200", "--set", "runtime.attention=flash3"), "flash3, but it does not run on a card of"),
        (("--cluster", "1x2xcpu"), "give --calibrate with a bench.json"),
        (("--cluster", "1x8xH100", "--calibrate", "nowhere.json"), "'nowhere.json', which cannot be read"),
        (("--cluster", "1x8xH100", "--calibrate", RECIPE), "is no result of lockstep bench"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_in_a_sentence(
    typed: Command, arguments: Sequence[str], sentence: str
) -> None:
    done = typed("plan", RECIPE, *arguments)
    assert done.code == 2 and done.out == ""
    assert sentence in done.err and len(done.err.strip().splitlines()) == 1


def test_a_report_that_cannot_be_written_is_refused(typed: Command, tmp_path: Path) -> None:
    done = typed(*EIGHT, "--report", str(tmp_path))
    assert done.code == 2 and "which is a folder" in done.err


def test_it_starts_without_torch() -> None:
    code = (
        "import sys; from launch.commands.app import app\n"
        "try: app()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *EIGHT], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr


ON_CPU = Software(dtype="float32")
TRUE = Speeds(
    product_flops=8e10, attention_flops=2e10, memory_bandwidth=8e9, elementwise_passes=124, exchange_passes=16,
    saturation_tokens=0, block_seconds=7e-4, overlaps=False, step_seconds=2e-3, lane_seconds=5e-4,
    convolution_flops=4e10, copy_bandwidth=1e9, host_bandwidth=1e9,
    encode_seconds=0.03, write_seconds=0.04, write_pixel_seconds=2e-8,
    agreement_seconds=3e-4, contention=1.15,
)  # fmt: skip
"""What the benches below were made with, which a calibration has to find."""


def truth(size: int, ranks: int) -> Prediction:
    sampling = (f"sampling.height={size}", f"sampling.width={size}")
    workload = make_workload(load_job_config(CONFIG, sampling), share=0.5)
    return predict(workload, Plan(parse_cluster("1x2xcpu"), Degrees(ulysses=ranks), ON_CPU), TRUE)


def bench(
    folder: Path, size: int, ranks: int, device: str = "cpu, 1 thread a rank", noise: float = 1.0, samples: int = 3
) -> Path:
    """A document of `lockstep bench` that the rates above would have given."""
    made = truth(size, ranks)
    config = load_job_config(CONFIG, (f"sampling.height={size}", f"sampling.width={size}"))

    def spread(value: float, samples: int = 3) -> Spread:
        return Spread(median=value, p10=value, p90=value, p99=value, samples=samples)

    def measured(*, cached: bool) -> dict[str, Any]:
        parts, total = (made.parts_on, made.cache_on) if cached else (made.parts_off, made.cache_off)
        around = {name: parts[name] for name in ("encode", "decode", "write")}
        stages = {**around, "denoise": total - sum(around.values())}
        row = {
            "rank": 0, "host": "here", "device": device, "stages": stages, "wait_seconds": 0.0, "late_seconds": None,
            "peak_memory_bytes": 1,
        }  # fmt: skip
        steps = StepSeconds(
            computed=spread(made.computed_step_seconds if cached else (total - sum(around.values())) / 50),
            skipped=spread(noise * made.skipped_step_seconds, samples) if cached else None,
        )
        values: dict[str, Any] = {name: 1.0 for name in Measured.model_fields}
        return values | {
            "layout": {"data": 1, "cfg": 1, "ulysses": ranks, "ring": 1}, "world_size": ranks, "videos": 3,
            "seconds_per_video": spread(total), "stages": {name: spread(value) for name, value in stages.items()},
            "steps": steps, "steps_computed": 25.0 if cached else 50.0, "steps_skipped": 25.0 if cached else 0.0,
            "skew": None, "flops": None, "collective_bytes_by_kind": {}, "collective_seconds_by_kind": {},
            "agreement_microseconds": None, "cache_bytes": 1, "peak_memory_bytes": 1, "ranks": [row], "samples": [],
        }  # fmt: skip

    document = BenchDocument(
        **measured(cached=True),
        made_with={"config": config.model_dump(mode="json")},
        startup_seconds=Startup(**{"import": 1.0, "load": 1.0, "first_step": 1.0}),
        cache_gain=None,
        cache_off=Measured(**measured(cached=False)),
    )
    folder.mkdir(exist_ok=True)
    (folder / "bench.json").write_text(document.model_dump_json(by_alias=True))
    return folder


def test_two_benches_of_a_cpu_predict_other_sizes_and_numbers_of_ranks(tmp_path: Path) -> None:
    paths = [bench(tmp_path / "small", 64, 2), bench(tmp_path / "large", 192, 1)]
    found = calibrate(paths, load_job_config(CONFIG), parse_cluster("1x2xcpu"), ON_CPU)
    assert found.speeds and found.cluster and "calibrated on 4 runs" in found.notes[0]
    for size in (96, 128, 256):
        made = truth(size, 1)
        plan = Plan(found.cluster, Degrees(), ON_CPU)
        workload = make_workload(
            load_job_config(CONFIG, (f"sampling.height={size}", f"sampling.width={size}")), share=0.5
        )
        ours = predict(workload, plan, found.speeds)
        assert ours.cache_off == pytest.approx(made.cache_off, rel=0.03)
        assert ours.cache_on == pytest.approx(made.cache_on, rel=0.05)


def test_a_skipped_step_that_was_seen_twice_is_not_fitted_to(tmp_path: Path) -> None:
    config, where = load_job_config(CONFIG), parse_cluster("1x2xcpu")
    clean = calibrate([bench(tmp_path / "clean", 64, 1, samples=2)], config, where, ON_CPU).speeds
    noisy = calibrate([bench(tmp_path / "noisy", 64, 1, noise=9.0, samples=2)], config, where, ON_CPU).speeds
    fitted = calibrate([bench(tmp_path / "often", 64, 1, noise=9.0)], config, where, ON_CPU).speeds
    assert clean == noisy != fitted


def test_a_calibrated_plan_says_so_and_wants_the_same_kind_of_device(typed: Command, tmp_path: Path) -> None:
    folder = bench(tmp_path / "bench", 64, 1)
    file = tmp_path / "plan.json"
    done = typed("plan", str(CONFIG), "--cluster", "1x2xcpu", "--calibrate", str(folder), "--report", str(file))
    assert done.code == 0 and "calibrated on 2 runs" in done.out
    document = json.loads(file.read_text())
    assert document["assumptions"]["rates"] == f"measured: {folder / 'bench.json'}"
    assert document["seconds_per_video"]["cache_off"] > 0
    other = typed("plan", str(CONFIG), "--cluster", "1x2xH100", "--calibrate", str(folder))
    assert other.code == 2 and "measured on 'cpu, 1 thread a rank', but --cluster is of H100" in other.err


def test_a_bench_on_a_gpu_moves_the_efficiencies(tmp_path: Path) -> None:
    """The made-up bench is a CPU's: blocks that take far longer to launch, and a far slower decoder."""
    folder = bench(tmp_path / "bench", 192, 1, device="NVIDIA H100 80GB HBM3")
    found = calibrate([folder], load_job_config(CONFIG), parse_cluster("1x1xH100"), ON_CPU)
    assert found.fitted and found.speeds is None
    assert found.fitted.launches > 2 and found.fitted.decode < 0.5


@pytest.mark.parametrize(
    ("card", "device", "same"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("H20", "NVIDIA H200", False),
        ("B200", "NVIDIA GB200", False),
        ("GB200", "NVIDIA GB200", True),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("MI300X", "AMD Instinct MI300X", True),
        ("cpu", "cpu, 1 thread a rank", True),
    ],
)
def test_devices_are_told_apart_by_name(card: str, device: str, same: bool) -> None:
    assert _is_named(card, device) is same
