"""The layouts chosen for a machine, held against all layouts that there are."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from parallel.config import ParallelConfig
from parallel.degrees import Degrees
from parallel.place import Place
from parallel.placement import Work, find_placement

AUTO = ParallelConfig(cfg=None)
PLENTY = 32760  # tokens of 81 frames at 480 x 832


def chosen(nodes: int, devices: int, heads: int, guided: bool, tokens: int = PLENTY, data: int = 1) -> Degrees:
    config = ParallelConfig(cfg=None, data=data)
    video: dict[str, Any] = {"num_heads": heads, "num_tokens": tokens, "guided": guided}
    return find_placement(config, Place(nodes * devices, local_ranks=devices, nodes=nodes), **video).degrees


@pytest.mark.parametrize(
    ("nodes", "devices", "heads", "guided", "expected"),
    [
        # Wan 1.3B
        (1, 8, 12, True, Degrees(cfg=2, ulysses=4)),
        (2, 8, 12, True, Degrees(cfg=2, ulysses=4, ring=2)),
        (1, 8, 12, False, Degrees(ulysses=4, ring=2)),
        (4, 2, 12, True, Degrees(cfg=2, ulysses=2, ring=2)),
        # Wan 14B
        (1, 8, 40, True, Degrees(cfg=2, ulysses=4)),
        (2, 8, 40, True, Degrees(cfg=2, ulysses=8)),
        (2, 8, 40, False, Degrees(ulysses=8, ring=2)),
        (4, 4, 40, True, Degrees(cfg=2, ulysses=4, ring=2)),
        (8, 8, 40, True, Degrees(cfg=2, ulysses=8, ring=4)),
        # HunyuanVideo, whose guidance is distilled
        (1, 8, 24, False, Degrees(ulysses=8)),
        (2, 8, 24, False, Degrees(ulysses=8, ring=2)),
        # nothing divides anything
        (3, 2, 12, True, Degrees(cfg=2, ring=3)),
        (3, 2, 12, False, Degrees(ulysses=2, ring=3)),
        (2, 6, 12, True, Degrees(cfg=2, ulysses=6)),
        (4, 3, 12, True, Degrees(cfg=2, ulysses=3, ring=2)),
        (3, 3, 12, True, Degrees(ulysses=3, ring=3)),
        (1, 7, 12, True, Degrees(ring=7)),
        (1, 1, 12, True, Degrees()),
    ],
)
def test_known_machines(nodes: int, devices: int, heads: int, guided: bool, expected: Degrees) -> None:
    assert chosen(nodes, devices, heads, guided) == expected


def test_each_replica_is_placed_like_a_machine_of_its_own() -> None:
    assert chosen(2, 8, 12, True, data=2) == Degrees(data=2, cfg=2, ulysses=4)
    assert chosen(2, 8, 40, False, data=4) == Degrees(data=4, ulysses=4)
    assert chosen(3, 2, 12, True, data=2) == Degrees(data=2, ring=3), "a replica of 3 ranks begins amid a node"


def ulysses_groups(degrees: Degrees) -> list[list[int]]:
    """Ranks that exchange heads, numbered as xDiT numbers them (tests/parallel/test_ranks.py compares)."""
    return torch.arange(degrees.world_size).view(-1, degrees.ulysses).tolist()


def crosses_nodes(degrees: Degrees, devices: int) -> bool:
    return any(len({rank // devices for rank in group}) > 1 for group in ulysses_groups(degrees))


def layouts(ranks: int, data: int, guided: bool) -> Iterator[Degrees]:
    """Every way to write the number of ranks as a product of the degrees."""
    for cfg, ulysses, ring in product((1, 2) if guided else (1,), range(1, ranks + 1), range(1, ranks + 1)):
        if data * cfg * ulysses * ring == ranks:
            yield Degrees(data, cfg, ulysses, ring)


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_the_choice_is_the_best_of_all_layouts_that_work(nodes: int, devices: int) -> None:
    """cfg before Ulysses, then as much Ulysses as stays inside nodes; refused only where nothing works."""
    for heads, guided, tokens, data in product((1, 3, 12, 24, 40), (True, False), (2, 5, PLENTY), (1, 2, 3)):
        work = [
            layout
            for layout in layouts(nodes * devices, data, guided)
            if heads % layout.ulysses == 0 and layout.sequence <= tokens and not crosses_nodes(layout, devices)
        ]
        if not work:
            with pytest.raises(ValueError, match=r"\d.* ranks"):
                chosen(nodes, devices, heads, guided, tokens, data)
            continue
        best = max(work, key=lambda layout: (layout.cfg, layout.ulysses))
        assert chosen(nodes, devices, heads, guided, tokens, data) == best


def test_a_degree_that_was_given_may_cross_nodes_and_no_other() -> None:
    def on_two_nodes(**given: int) -> Degrees:
        return find_placement(
            ParallelConfig(**given), Place(8, nodes=2), num_heads=40, num_tokens=PLENTY, guided=True
        ).degrees

    assert on_two_nodes() == Degrees(ulysses=4, ring=2)
    assert on_two_nodes(ulysses=8) == Degrees(ulysses=8)
    assert on_two_nodes(ulysses=8, ring=1) == Degrees(ulysses=8)
    with pytest.raises(ValueError) as refused:
        on_two_nodes(ring=1)
    words = ["parallel.ring is 1", "groups of 8", "nodes of 4", "parallel.ring=2", "parallel.ulysses=8"]
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize(("ranks", "nodes", "devices"), [(6, 2, 4), (6, 2, 2), (6, 3, 1), (7, 2, None)])
def test_nodes_that_differ_are_refused_where_it_matters(ranks: int, nodes: int, devices: int | None) -> None:
    """torchrun tells a rank only how many there are on its own node: the others might choose otherwise."""
    video: dict[str, Any] = {"num_heads": 12, "num_tokens": PLENTY, "guided": True}
    place = Place(ranks, local_ranks=devices, nodes=nodes)
    with pytest.raises(ValueError, match=rf"{ranks} ranks on {nodes} nodes, but {devices or 3} on this one"):
        find_placement(AUTO, place, **video)
    assert find_placement(ParallelConfig(ulysses=1, ring=ranks), place, **video).degrees == Degrees(ring=ranks)
    assert find_placement(ParallelConfig(data=ranks), place, **video).degrees == Degrees(data=ranks)


@pytest.mark.parametrize(
    ("config", "nodes", "devices", "guided", "expected"),
    [
        (
            AUTO,
            2,
            8,
            True,
            {
                "data": ["16 ranks"],
                "cfg": ["2 guidance branches", "8 ranks each", "velocity"],
                "ulysses": ["12 attention heads", "8 sequence ranks", "8 of a node", "no group crosses"],
                "ring": ["8 sequence ranks", "8 / 4", "inside nodes of 8"],
            },
        ),
        (
            AUTO,
            4,
            3,
            False,
            {
                "cfg": ["1 guidance branch"],
                "ulysses": ["12 attention heads", "12 sequence ranks", "3 of a node"],
                "ring": ["12 / 3", "across nodes of 3"],
            },
        ),
        (AUTO, 1, 7, True, {"cfg": ["7 ranks"], "ulysses": ["7 sequence ranks"], "ring": ["all 7 sequence ranks."]}),
        (AUTO, 1, 2, True, {"cfg": ["1 rank each"], "ulysses": ["One rank holds"], "ring": ["One rank holds"]}),
        (AUTO, 1, 4, False, {"ulysses": ["4 sequence ranks."], "ring": ["Ulysses takes all 4"]}),
        (
            ParallelConfig(data=2, cfg=1, ring=2),
            1,
            8,
            True,
            {
                "data": ["2 replicas of 4 ranks"],
                "cfg": ["1 unless given", "take turns"],
                "ulysses": ["ring of 2", "4 sequence ranks"],
                "ring": ["As given"],
            },
        ),
        (ParallelConfig(cfg=None, ulysses=4), 1, 4, True, {"cfg": ["no 2 of 4 ranks"], "ulysses": ["As given"]}),
    ],
)
def test_each_axis_has_its_reason(
    config: ParallelConfig, nodes: int, devices: int, guided: bool, expected: dict[str, list[str]]
) -> None:
    video: dict[str, Any] = {"num_heads": 12, "num_tokens": PLENTY, "guided": guided}
    reasons = find_placement(config, Place(nodes * devices, local_ranks=devices, nodes=nodes), **video).reasons
    assert list(reasons) == ["data", "cfg", "ulysses", "ring"]
    for reason in reasons.values():
        assert (reason[0].isupper() or reason[0] == "1") and reason.endswith(".") and "\n" not in reason
    for axis, words in expected.items():
        assert all(word in reasons[axis] for word in words), reasons[axis]


def for_throughput(ranks: int, work: Work, nodes: int = 1, **given: Any) -> Any:
    config = ParallelConfig(cfg=None, goal="throughput", **given)
    place = Place(ranks, local_ranks=ranks // nodes, nodes=nodes)
    return find_placement(config, place, num_heads=40, num_tokens=1000, guided=True, work=work)


@pytest.mark.parametrize(
    ("ranks", "videos", "degrees"),
    [
        (2, 4, Degrees(data=2)),
        (8, 100, Degrees(data=8)),
        (8, None, Degrees(data=8)),
        (8, 3, Degrees(data=2, cfg=2, ulysses=2)),
        (6, 4, Degrees(data=3, cfg=2)),
        (8, 1, Degrees(cfg=2, ulysses=4)),
        (1, 5, Degrees()),
    ],
)
def test_throughput_takes_replicas_first(ranks: int, videos: int | None, degrees: Degrees) -> None:
    assert for_throughput(ranks, Work(videos)).degrees == degrees


def test_throughput_takes_replicas_that_the_model_fits_into() -> None:
    def shared_by(count: int) -> Work:
        return Work(100, fits=lambda degrees: degrees.replica_size >= count)

    assert for_throughput(8, shared_by(2)).degrees == Degrees(data=4, cfg=2)
    assert for_throughput(8, shared_by(4)).degrees == Degrees(data=2, cfg=2, ulysses=2)
    nowhere = for_throughput(8, Work(100, fits=lambda degrees: False))
    assert nowhere.degrees == Degrees(cfg=2, ulysses=4), "as for latency"
    assert "fits into no smaller one" in nowhere.reasons["data"]


def test_throughput_changes_no_given_degree() -> None:
    assert for_throughput(8, Work(100), data=2).degrees == Degrees(data=2, cfg=2, ulysses=2)
    assert for_throughput(8, Work(100), ulysses=4).degrees == Degrees(data=2, ulysses=4)


def test_replicas_stay_inside_nodes() -> None:
    """Of 12 ranks on 2 nodes of 6, replicas of 4 would cross nodes."""
    work = Work(3, fits=lambda degrees: True)
    assert for_throughput(12, work, nodes=2).degrees.data == 2


def test_the_reason_says_the_goal_and_the_list() -> None:
    placement = for_throughput(2, Work(4))
    assert placement.reasons["data"] == (
        "The goal is throughput, and there are 4 videos to make: 2 replicas of 1 rank, which send one another nothing."
    )
    one = for_throughput(2, Work(1))
    assert one.reasons["data"] == "The goal is throughput, and there is 1 video to make: one replica of 2 ranks."
