"""Ranks are numbered as xDiT numbers them, also where nobody has that many processes."""

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

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


@pytest.mark.parametrize("rank", [0, 5, 10, 15])
def test_groups_of_sixteen_ranks_are_xdits(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """On torch's fake backend one process can be any rank of many."""
    world_size, degrees = 16, Degrees(cfg=2, ulysses=4, ring=2)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    start, new_group = dist.init_process_group, dist.new_group

    def start_fake(*_: object, **__: object) -> None:
        start("fake", store=FakeStore(), world_size=world_size, rank=rank)

    monkeypatch.setattr(dist, "init_process_group", start_fake)
    monkeypatch.setattr(dist, "new_group", lambda ranks, **_: new_group(ranks, backend="fake"))
    try:
        ranks = join(degrees, torch.device("cpu"), 60)
        groups = (ranks.replica_group, ranks.sequence_group, ranks.cfg_group)
        replica, sequence, cfg = (dist.get_process_group_ranks(group) for group in groups)
    finally:
        leave()
    first = rank // 8 * 8
    assert replica == list(range(16))
    assert sequence == list(range(first, first + 8))
    assert cfg == [rank % 8, rank % 8 + 8]
