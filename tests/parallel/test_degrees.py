"""Degrees that a user leaves open or gives wrongly."""

import pytest

from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import find_placement


@pytest.mark.parametrize(
    ("given", "ranks", "heads", "expected"),
    [
        ({}, None, 12, Degrees()),
        ({}, 4, 12, Degrees(ulysses=4)),
        ({}, 8, 12, Degrees(ulysses=4, ring=2)),  # 8 does not divide 12 heads, so ring takes the rest
        ({}, 3, 4, Degrees(ring=3)),
        ({"cfg": 2}, 8, 40, Degrees(cfg=2, ulysses=4)),
        ({"ring": 2}, 4, 4, Degrees(ulysses=2, ring=2)),
        ({"ulysses": 2, "ring": 2}, None, 4, Degrees(ulysses=2, ring=2)),
        ({"data": 2, "cfg": 2, "ulysses": 2, "ring": 2}, 16, 4, Degrees(2, 2, 2, 2)),
        ({"data": 2}, 16, 12, Degrees(data=2, ulysses=4, ring=2)),
        ({"cfg": None}, None, 12, Degrees()),
        ({"cfg": None, "ring": 2}, 8, 4, Degrees(cfg=2, ulysses=2, ring=2)),
        ({"cfg": None, "ulysses": 2}, 12, 4, Degrees(cfg=2, ulysses=2, ring=3)),
        ({"cfg": None, "ulysses": 4}, 4, 4, Degrees(ulysses=4)),  # which leaves nothing for cfg
        ({"cfg": None, "data": 2}, 8, 12, Degrees(data=2, cfg=2, ulysses=2)),
    ],
)
def test_open_degrees_are_filled(given, ranks, heads, expected):
    placement = find_placement(ParallelConfig(**given), Place(ranks), num_heads=heads, num_tokens=1000, guided=True)
    assert placement.degrees == expected


@pytest.mark.parametrize(
    ("given", "ranks", "words"),
    [
        ({"ulysses": 2}, 4, ["ulysses 2", "multiply to 2", "4 ranks"]),
        ({"ulysses": 2, "ring": 3}, 4, ["multiply to 6", "4 ranks"]),
        ({"cfg": 2}, 3, ["cfg 2", "3 ranks"]),
        ({"cfg": 3}, 3, ["parallel.cfg is 3"]),
        ({"ulysses": 3}, 3, ["parallel.ulysses is 3", "4 attention heads", "[1, 2, 4]"]),
        ({"ring": 3}, 4, ["ring 3", "4 ranks"]),
        ({"cfg": None, "data": 3}, 8, ["data 3", "multiply to 6", "8 ranks"]),
        ({"cfg": None, "ulysses": 3}, 8, ["ulysses 3", "multiply to 6", "8 ranks"]),
        ({"ring": 7}, 7, ["6 tokens", "7 ranks"]),
        ({"tensor": 2}, 2, ["parallel.tensor is 2,", "no tensor-parallel Wan", "parallel.shard_weights"]),
        ({"tensor": 2, "cfg": 2}, 4, ["parallel.tensor is 2,", "no tensor-parallel Wan"]),
        ({"tensor": 2}, None, ["parallel.tensor is 2,", "no tensor-parallel Wan"]),
        ({"tensor": 2, "ulysses": 2}, 4, ["parallel.tensor is 2 beside 2 sequence ranks", "groups", "shard_weights"]),
        ({"tensor": 2, "ulysses": 2, "ring": 3}, None, ["parallel.tensor is 2 beside 6 sequence ranks"]),
        ({"tensor": 2, "ring": 2}, 8, ["parallel.tensor is 2 beside 2 sequence ranks"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(given, ranks, words):
    with pytest.raises(ValueError) as refused:
        find_placement(ParallelConfig(**given), Place(ranks), num_heads=4, num_tokens=6, guided=True)
    assert all(word in str(refused.value) for word in words), str(refused.value)
