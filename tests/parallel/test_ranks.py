"""Ranks are numbered as xDiT numbers them, also where nobody has that many processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from parallel import xdit
from parallel.degrees import Degrees
from parallel.ranks import Ranks, join, leave


@pytest.mark.parametrize("degrees", [Degrees(2, 2, 2, 2), Degrees(1, 2, 4, 4), Degrees(2, 2, 8, 2)], ids=str)
def test_places_follow_data_then_cfg_then_ring_then_ulysses(degrees: Degrees) -> None:
    places = [Ranks(degrees, rank) for rank in range(degrees.world_size)]
    seen = [(p.first_in_replica // p.replica_size, p.cfg_rank, p.ring_rank, p.sequence_rank) for p in places]
    expected = [
        (data, cfg, ring, ring * degrees.ulysses + ulysses)
        for data in range(degrees.data)
        for cfg in range(degrees.cfg)
        for ring in range(degrees.ring)
        for ulysses in range(degrees.ulysses)
    ]
    assert seen == expected


@contextmanager
def one_rank_of_many(world_size: int, rank: int) -> Iterator[None]:
    """On torch's fake backend one process can be any rank of many."""
    start, new_group = dist.init_process_group, dist.new_group

    def start_fake(*_: object, **__: object) -> None:
        start("fake", store=FakeStore(), world_size=world_size, rank=rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(world_size))
        patch.setattr(dist, "rendezvous", lambda *_, **__: iter([(FakeStore(), rank, world_size)]))
        patch.setattr(dist, "init_process_group", start_fake)
        patch.setattr(dist, "new_group", lambda ranks, **_: new_group(ranks, backend="fake"))
        try:
            yield
        finally:
            leave()


LARGE_LAYOUTS = [
    Degrees(cfg=2, ulysses=4, ring=2),
    Degrees(data=2, cfg=2, ulysses=2, ring=2),
    Degrees(ulysses=8, ring=2),
    Degrees(data=2, cfg=2, ulysses=4, ring=2),
    Degrees(cfg=2, ulysses=2, ring=8),
    Degrees(cfg=2, ulysses=8, ring=4),
    Degrees(data=2, cfg=2, ulysses=4, ring=4),
    Degrees(data=2, ulysses=8, ring=4),
]


@pytest.mark.filterwarnings("ignore:Set timeout is now only supported")
@pytest.mark.parametrize("degrees", LARGE_LAYOUTS, ids=lambda degrees: f"{degrees.world_size}: {degrees}")
def test_groups_of_many_ranks_are_xdits(degrees: Degrees) -> None:
    """Every group that this rank is in, against the lines and planes of a grid of all ranks."""
    world_size = degrees.world_size
    grid = torch.arange(world_size).view(degrees.data, degrees.cfg, degrees.ring, degrees.ulysses)
    for rank in (0, world_size // 3, world_size // 2, world_size - 2):
        data, cfg, ring, ulysses = ((grid == rank).nonzero()[0]).tolist()
        with one_rank_of_many(world_size, rank):
            ranks = join(degrees, torch.device("cpu"), 60)
            assert (ranks.cfg_rank, ranks.ring_rank) == (cfg, ring)
            for group, expected in [
                (ranks.replica_group, grid[data]),
                (ranks.sequence_group, grid[data, cfg]),
                (ranks.cfg_group, grid[data, :, ring, ulysses]),
                (xdit.get_sp_group().ulysses_group, grid[data, cfg, ring, :]),
                (xdit.get_sp_group().ring_group, grid[data, cfg, :, ulysses]),
            ]:
                is_made = group not in (None, dist.GroupMember.NON_GROUP_MEMBER)
                members = dist.get_process_group_ranks(group) if is_made else [rank]
                assert members == expected.flatten().tolist()


@pytest.mark.filterwarnings("ignore:Set timeout is now only supported")
@pytest.mark.parametrize(
    ("degrees", "groups"),
    [
        # the job's own group; 4 pairs of branches, 2 sequences, and 2 groups that exchange heads
        (Degrees(cfg=2, ulysses=4), 1 + 4 + 2 + 2),
        (Degrees(ulysses=8), 1 + 1),
        (Degrees(cfg=2, ulysses=8), 1 + 8 + 2 + 2),
        # and chunks pass around rings; two replicas have no group in common but the job's own
        (Degrees(data=2, cfg=2, ulysses=4, ring=4), 1 + 2 + 32 + 4 + 16 + 16),
        (Degrees(cfg=2, ulysses=8, ring=4), 1 + 32 + 2 + 8 + 16),
    ],
    ids=str,
)
def test_only_groups_that_are_used_are_made(
    degrees: Degrees, groups: int, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Every group costs connections, and over NCCL buffers; xDiT makes 100, 105, 188, 624 and 674."""
    made: list[Sequence[int]] = []
    with one_rank_of_many(degrees.world_size, rank=1):
        new_group = dist.new_group
        monkeypatch.setattr(dist, "new_group", lambda ranks, **named: made.append(ranks) or new_group(ranks, **named))
        join(degrees, torch.device("cpu"), 60)
        record_property("groups", 1 + len(made))
        assert 1 + len(made) == groups, made
        assert all(len(ranks) > 1 for ranks in made)
        sequence = xdit.get_sp_group()
        assert (sequence.ulysses_world_size, sequence.ring_world_size) == (degrees.ulysses, degrees.ring)
        assert sequence.ulysses_rank == 1 % degrees.ulysses and sequence.ring_rank == 1 // degrees.ulysses
        if degrees.ulysses > 1:
            assert sequence.ulysses_group is not sequence.device_group, "gathers of weights would queue behind it"


def test_why_tensor_parallel_is_refused() -> None:
    """xDiT 0.7 shares a sequence over other ranks than those that exchange its heads; once it no longer does,
    the refusal in parallel/placement.py should go."""
    with one_rank_of_many(world_size=4, rank=0):
        dist.init_process_group()
        xdit.init_distributed_environment(rank=0, world_size=4, backend="gloo")
        degrees = {"sequence_parallel_degree": 2, "ulysses_degree": 2, "tensor_parallel_degree": 2}
        xdit.initialize_model_parallel(**degrees, backend="gloo")
        sequence = xdit.get_sp_group()
        assert dist.get_process_group_ranks(sequence.device_group) == [0, 2]
        assert dist.get_process_group_ranks(sequence.ulysses_group) == [0, 1]
