import pytest

from parallel.config import ParallelConfig
from parallel.degrees import Degrees, resolve_degrees


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
    ],
)
def test_open_degrees_are_filled(given, ranks, heads, expected):
    assert resolve_degrees(ParallelConfig(**given), ranks, heads) == expected


@pytest.mark.parametrize(
    ("given", "ranks", "words"),
    [
        ({"ulysses": 2}, 4, ["ulysses 2", "multiply to 2", "4 ranks"]),
        ({"ulysses": 2, "ring": 3}, 4, ["multiply to 6", "4 ranks"]),
        ({"cfg": 2}, 3, ["cfg 2", "3 ranks"]),
        ({"cfg": 3}, 3, ["parallel.cfg is 3"]),
        ({"ulysses": 3}, 3, ["parallel.ulysses is 3", "4 attention heads", "[1, 2, 4]"]),
        ({"ring": 3}, 4, ["ring 3", "4 ranks"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(given, ranks, words):
    with pytest.raises(ValueError) as refused:
        resolve_degrees(ParallelConfig(**given), ranks, num_heads=4)
    assert all(word in str(refused.value) for word in words)
