"""`lockstep bench --scale` on a Ray cluster: one gang after the other, each with a folder of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.bench.reading import read_document
from launch.commands import bench
from launch.ranks.place import Launcher
from parallel.place import Place
from tests.support.bench_documents import Machine, document
from tests.support.small_model import CONFIG
from tests.support.typed import Command


def test_each_number_of_ranks_is_a_gang(
    typed: Command, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def run_work(launcher: Launcher, ranks: int, address: str, prepare: Any, work: object, summarise: object) -> int:
        job = prepare(Place(ranks, elsewhere=True))
        started.append((launcher, ranks, address, job.output, job.config.parallel.degrees.world_size))
        job.output.mkdir(parents=True)
        results = document(Machine(np.random.default_rng(0)).measured(ranks=ranks))
        (job.output / "bench.json").write_text(results.model_dump_json(by_alias=True))
        return 0

    monkeypatch.setattr(bench, "run_work", run_work)
    output = tmp_path / "all"
    ray = ["--launcher=ray", "--ray-address=10.0.0.1:6379"]
    given = [str(CONFIG), f"--output={output}", f"--set=model.path={tiny_checkpoint}", "--scale=2,1", *ray]
    code, out, err = typed("bench", *given)
    assert code == 0, err
    assert started == [(Launcher.RAY, count, "10.0.0.1:6379", output / f"ranks-{count}", count) for count in (1, 2)]
    assert [row.world_size for row in read_document(output).scale] == [1, 2]
    assert f"written to {output}" in out
