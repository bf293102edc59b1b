"""Who is which rank: arithmetic on what Ray says, without a Ray."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from launch.gang.assignment import ActorInfo, assign, carried_environment
from launch.gang.bundles import living, machines_of, order_by_node
from launch.gang.rank_actor import RankActor
from launch.gang.recorder import Recorder
from parallel import torch_private
from parallel.control import Control


def test_bundles_are_ordered_by_node() -> None:
    where = {0: "b", 1: "a", 2: "b", 3: "c", 4: "b", 5: "c"}
    assert order_by_node(where, "nowhere") == [0, 2, 4, 3, 5, 1], "the largest node first"
    assert order_by_node(where, "a") == [1, 0, 2, 4, 3, 5], "the driver's node before all"


@pytest.mark.parametrize(
    ("nodes", "machines"),
    [("aaaa", (1, 4)), ("aabb", (2, 2)), ("aaaabb", (3, 2)), ("aaab", (4, 1))],
)
def test_uneven_nodes_count_in_parts(nodes: str, machines: tuple[int, int]) -> None:
    assert machines_of(list(nodes)) == machines


def test_ranks_on_two_nodes_with_several_gpus() -> None:
    """A gang that has GPUs 4-7 of one node, in no order, and two of another."""
    actors = [ActorInfo("a", "10.0.0.1", [gpu], 16) for gpu in ("6", "4", "7", "5")]
    actors += [ActorInfo("b", "10.0.0.2", [gpu], 8) for gpu in ("10", "9")]
    order, assignments = assign(actors, "/here")
    assert order == [1, 3, 0, 2, 5, 4]
    assert [each.rank for each in assignments] == list(range(6))
    assert [each.local_rank for each in assignments] == [0, 1, 2, 3, 0, 1]
    assert {each.ranks_per_node for each in assignments} == {2}
    for each, index in zip(assignments, order, strict=True):
        assert each.gpus[each.local_rank] == actors[index].gpus[0], "cuda:LOCAL_RANK is the GPU that Ray gave it"

    environment = {"CUDA_VISIBLE_DEVICES": "9", "OMP_NUM_THREADS": "1", "NCCL_DEBUG": "of the node"}
    driver = {"NCCL_DEBUG": "of the driver", "HF_HOME": "/hub", "CUDA_VISIBLE_DEVICES": "", "RANK": "7"}
    assert set(carried_environment(driver)) == {"NCCL_DEBUG", "HF_HOME"}
    tuned = {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MODULE_LOADING"}
    machines = {"CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "MASTER_ADDR", "LOCKSTEP_PARENT_PID"}
    assert set(carried_environment(dict.fromkeys(tuned | machines, "x"))) == tuned
    assignments[4].set_environment(environment, carried_environment(driver), "10.0.0.1")
    assert environment == {
        "CUDA_VISIBLE_DEVICES": "9,10",
        "OMP_NUM_THREADS": "4",
        "NCCL_DEBUG": "of the node",
        "HF_HOME": "/hub",
        "RANK": "4",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def test_what_a_rank_tells_is_told_once() -> None:
    recorder = Recorder()
    recorder.stage("denoise")
    recorder.step(0, 8, "warmup")
    first = recorder.status(0)
    assert (first.phase, first.told) == ("denoise step 1", 2)
    assert first.events == [("stage", ("denoise",)), ("step", (0, 8, "warmup"))]
    recorder.done()
    assert recorder.status(first.told).events == [("done", ())]
    assert recorder.status(3).events == []


def test_a_rank_that_only_decodes_shows_that_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rank that writes tells of frames. The others of a long decoding begin one collective after another."""
    actor, counts = RankActor(), iter([4, 5, 5])
    monkeypatch.setattr(torch_private, "collectives_begun", lambda: next(counts))
    times = iter([100.0, 100.0, 700.0, 700.0, 1400.0])
    monkeypatch.setattr("launch.gang.recorder.time", SimpleNamespace(monotonic=lambda: next(times)))
    idle = []
    for _ in range(3):
        status: Any = actor.status
        idle.append(status(0, 0, Control.RUN).idle_seconds)
    assert idle == [0.0, 0.0, 700.0]


def test_a_node_that_ray_has_not_missed_yet_is_lost_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as up, socket.create_server(("127.0.0.1", 0)) as down:
        ports = {"up": up.getsockname()[1], "other": up.getsockname()[1], "down": down.getsockname()[1]}
        down.close()
        known = [
            {"NodeID": name, "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
            for name, port in ports.items()
        ]
        monkeypatch.setattr(ray, "nodes", lambda: [*known, {"NodeID": "missed", "Alive": False}])
        assert living(["up", "down", "missed"]) == {"up"}
