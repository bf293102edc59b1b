"""Ranks that meet in a store in which ranks before them have left their keys."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from parallel.meeting import Meeting, agree_on_prefix


def test_each_start_has_a_prefix_of_its_own() -> None:
    """Rank 2 of the second start comes late: until then its place holds the token of a dead rank."""
    store, prefixes = dist.HashStore(), []
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        with ThreadPoolExecutor(3) as ranks:
            met = [ranks.submit(agree_on_prefix, store, rank, 3, 10.0) for rank in order]
            (prefix,) = {one.result() for one in met}
        prefixes.append(prefix)
    assert len(set(prefixes)) == 3


def test_a_rank_that_does_not_come_is_named() -> None:
    store = dist.HashStore()
    store.set("token/1", "of a rank that was killed")
    with pytest.raises(dist.DistStoreError, match="without rank 1"):
        agree_on_prefix(store, 0, 2, 0.1)


def test_rank_0_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"ADDR": "127.0.0.1", "PORT": str(server.port)}.items():
        monkeypatch.setenv(f"MASTER_{name}", value)
    monkeypatch.setitem(os.environ, "TORCHELASTIC_USE_AGENT_STORE", "True")

    def decide(rank: int, own: list[int]) -> list[int]:
        decided: list[int] = Meeting(rank, 2, 10.0).first_decides("finished videos", own)
        return decided

    for first, second in (([0, 2], []), ([1], [0])):  # the second start finds what the first has decided
        with ThreadPoolExecutor(2) as ranks:
            decided = [ranks.submit(decide, 1, second), ranks.submit(decide, 0, first)]
            assert [one.result() for one in decided] == [first, first]
