"""The attention kernel that a plan counts with is the one that the engine takes."""

from __future__ import annotations

import pytest

from engine.errors import InvalidInput
from launch.planner.cards import CARDS, Kernel
from launch.planner.cluster import parse_cluster
from launch.planner.kernel import PACKAGES, kernel_on
from launch.planner.software import LOCKSTEP, Software, find_speeds
from parallel.kernels import Found, Site, Wish, choose_kernel

BY_CARD: dict[str, Kernel] = {
    "A100": "flash2", "L40S": "flash2", "RTX4090": "flash2", "RTX5090": "flash2", "MI300X": "flash2",
    "MI355X": "flash2",
    "H20": "cudnn", "H100": "cudnn", "H200": "cudnn", "B200": "cudnn", "GB200": "cudnn", "B300": "cudnn",
    "GB300": "cudnn",
}  # fmt: skip


def test_auto_is_what_the_engine_takes_on_one_rank_and_on_many() -> None:
    assert {card.name for card in CARDS.values()} == BY_CARD.keys()
    torch_alone = Found(absent=dict.fromkeys(PACKAGES, "it is not installed"))
    for card in CARDS.values():
        for ring in (1, 4):
            taken = choose_kernel("auto", Site("cuda", "bfloat16", ring, card.capability), torch_alone).kernel
            assert taken == ("cudnn" if BY_CARD[card.name] == "cudnn" else "sdpa")
        assert {kernel_on(card, "auto", ranks) for ranks in (1, 8)} == {BY_CARD[card.name]}


@pytest.mark.parametrize(
    ("wish", "one", "eight"),
    [
        ("sdpa", "cudnn", "flash2"),
        ("cudnn", "cudnn", "cudnn"),
        ("flash", "flash2", "flash2"),
        ("flash3", "best", "best"),
        ("sage", "fp8", "fp8"),
        ("efficient", "flash2", "flash2"),
        ("best", "best", "best"),
    ],
)
def test_one_that_is_named(wish: Kernel | Wish, one: Kernel, eight: Kernel) -> None:
    assert (kernel_on(CARDS["h100"], wish, 1), kernel_on(CARDS["h100"], wish, 8)) == (one, eight)
    assert kernel_on(CARDS["a100"], "sdpa", 1) == "flash2"


def test_one_that_the_card_cannot_run_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"flash3, but it does not run on a card of compute capability 10\.0"):
        find_speeds(parse_cluster("1x8xB200"), Software(kernel="flash3"), 8, "wan")


def test_eight_ranks_attend_as_fast_as_one() -> None:
    h100, a100 = parse_cluster("1x8xH100"), parse_cluster("1x8xA100")
    rates = [find_speeds(h100, LOCKSTEP, ranks, "wan").attention_flops for ranks in (1, 8)]
    assert rates[0] == rates[1] > 1.5 * find_speeds(h100, Software(kernel="flash2"), 8, "wan").attention_flops
    assert find_speeds(a100, LOCKSTEP, 8, "wan") == find_speeds(a100, Software(kernel="flash2"), 8, "wan")
