"""Replicas share out a list of videos: every one is made once, in its own way, and nobody waits for anybody."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.config import Config
from engine.engine import Engine
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import Outputs, Task, make_tasks
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from parallel.worklist import WorkList
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config

OTHER = "a blue square moving up on a navy background"
SMALL = ("sampling.frames=5", "sampling.height=48", "sampling.width=48", "cache.threshold=0.2")


def tasks_for(config: Config, folder: Path) -> list[Task]:
    outputs = Outputs(folder / "v.mp4", folder / "v.json", folder / "v.safetensors")
    return make_tasks([PROMPT, OTHER], "", [7, 8], config.sampling, outputs)


def generate_all(ranks: Ranks, config: Config, folder: Path) -> list[dict] | None:
    return Engine(load_model(config, ranks), Progress()).generate_all(tasks_for(config, folder))


@pytest.mark.parametrize(
    "degrees",
    [
        Degrees(data=2),
        pytest.param(Degrees(data=2, ulysses=2), marks=pytest.mark.slow),
        Degrees(data=3),
        pytest.param(Degrees(data=2, cfg=2, ring=2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_video_is_what_it_is_alone(gang: Gang, tmp_path: Path, degrees: Degrees) -> None:
    config = tiny_config(*SMALL)
    results = gang.run(generate_all, degrees, config, tmp_path)
    assert results[1:] == [None] * (degrees.world_size - 1)
    for index, (task, report) in enumerate(zip(tasks_for(config, tmp_path), results[0], strict=True)):
        alone = Engine(load_model(config, Ranks()), Progress()).generate(task.request)
        assert alone.report
        saved = load_file(tmp_path / f"v-{index}.safetensors")["latents"]
        assert (saved - alone.latents).abs().max() <= 1e-5 * alone.latents.abs().max()
        for key in ("prompt", "seed"):
            assert report["request"][key] == alone.report["request"][key], "reports come in the order of the list"
        assert [row["action"] for row in report["steps"]] == [row["action"] for row in alone.report["steps"]]
        assert report["output"]["path"] == str(tmp_path / f"v-{index}.mp4")
        assert (tmp_path / f"v-{index}.mp4").stat().st_size > 0
        assert (tmp_path / f"v-{index}.json").is_file()
    videos = {report["output"]["latents_sha256"] for report in results[0]}
    assert len(videos) == 4, "prompts and seeds must make four different videos"


def share_out(ranks: Ranks, count: int, seconds: list[float]) -> tuple[list[int], float, list | None]:
    """Take items, each of which takes a replica its ``seconds``. Returns this rank's items and when it was done."""
    work, own, started = WorkList(count, ranks, "test"), [], time.monotonic()
    for item in work:
        own.append(item)
        time.sleep(seconds[ranks.rank // ranks.replica_size])
        if ranks.replica_rank == 0:
            work.finish(item, f"by replica {ranks.rank // ranks.replica_size}")
    done = time.monotonic() - started
    work.await_all()
    assert time.monotonic() - started >= seconds[-1], "nobody leaves while a replica is at work"
    return own, done, work.results() if ranks.rank == 0 else None


@pytest.mark.parametrize("degrees", [Degrees(data=2), Degrees(data=2, ulysses=2)], ids=str)
def test_a_fast_replica_neither_waits_for_a_slow_one_nor_leaves_it_its_share(gang: Gang, degrees: Degrees) -> None:
    results = gang.run(share_out, degrees, 8, [0.3, 5.0])
    size = degrees.replica_size
    fast, slow = results[:size], results[size:]
    assert all(own == fast[0][0] for own, _, _ in fast) and all(own == slow[0][0] for own, _, _ in slow)
    assert sorted(fast[0][0] + slow[0][0]) == list(range(8)), "each item once"
    assert len(slow[0][0]) == 1
    assert max(done for _, done, _ in fast) < 5.0 <= min(done for _, done, _ in slow)
    by = [f"by replica {int(item in slow[0][0])}" for item in range(8)]
    assert results[0][2] == by


def two_lists(ranks: Ranks) -> tuple[list[int], list[int]]:
    return list(WorkList(3, ranks, "first")), list(WorkList(3, ranks, "second"))


def test_a_second_list_starts_from_its_beginning(gang: Gang) -> None:
    results = gang.run(two_lists, Degrees(data=2))
    for which in (0, 1):
        assert sorted(results[0][which] + results[1][which]) == [0, 1, 2]


def test_one_replica_takes_all_in_order() -> None:
    work = WorkList(3, Ranks(), "test")
    for item in work:
        work.finish(item, item * torch.ones(()).item())
    assert work.results() == [0.0, 1.0, 2.0]
