"""The cost model: that it moves as physics does, and agrees with what the engine says of itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from engine.cost.autoencoders import autoencoder_flops
from engine.cost.flops import transformer_flops
from engine.cost.memory import estimate
from engine.errors import InvalidInput
from engine.models.catalog import CATALOG
from launch.planner.cards import CARDS
from launch.planner.choice import Goal, choose, gpu_seconds
from launch.planner.cluster import Cluster, parse_cluster
from launch.planner.layouts import Question, accepted_degrees, predictions
from launch.planner.links import LINKS
from launch.planner.memory import memory_bytes, others_stay, swaps_experts
from launch.planner.predict import GROUPS, Prediction, predict
from launch.planner.scaling import scale, sizes_of, stops_paying
from launch.planner.skipping import NEVER, Skipping, find_skipping
from launch.planner.software import LOCKSTEP, Software, find_speeds
from launch.planner.stages import decode_share, find_decoder, host_copied_bytes
from launch.planner.steps import Plan, computed_step, skipped_step
from launch.planner.workload import Workload, make_workload, workload_of
from parallel.degrees import Degrees
from tests.support.small_model import tiny_config

SKIPS = Skipping(0.6, "for the test", probe_blocks=1)
CFG_U4 = Degrees(cfg=2, ulysses=4)


def workload(name: str = "Wan 2.1 T2V 14B", skipping: Skipping = SKIPS, steps: int = 50) -> Workload:
    model = next(row for row in CATALOG if row.name == name)
    return workload_of(model, model.facts, model.facts.num_branches(2.0), steps, skipping)


def on(
    cluster: str | Cluster, degrees: Degrees = CFG_U4, *, shard: bool = False, work: Workload | None = None
) -> Prediction:
    where = parse_cluster(cluster) if isinstance(cluster, str) else cluster
    return predict(work or workload(), Plan(where, degrees, LOCKSTEP, shard))


@pytest.mark.parametrize("name", [model.name for model in CATALOG])
def test_a_step_takes_at_least_its_flops_at_the_published_peak_and_not_ten_times_as_long(name: str) -> None:
    work = workload(name)
    flops = work.branches * sum(transformer_flops(work.shape, work.lane).values())
    bound = flops / CARDS["h100"].bf16_flops
    seconds = on("1x1xH100", Degrees(), work=work).computed_step_seconds
    assert bound < seconds < 10 * bound


@pytest.mark.parametrize("field", ["bf16_flops", "memory_bandwidth"])
def test_a_faster_card_is_faster(field: str) -> None:
    cluster = parse_cluster("1x8xH100")
    faster = replace(cluster, card=replace(cluster.card, **{field: 2 * getattr(cluster.card, field)}))
    assert on(faster).cache_off < on(cluster).cache_off
    assert on(faster).cache_on < on(cluster).cache_on


@pytest.mark.parametrize("degrees", [Degrees(cfg=2, ulysses=8), Degrees(ulysses=4, ring=4), Degrees(ring=16)])
@pytest.mark.parametrize("which", ["inside", "between"])
def test_a_faster_link_is_never_slower(degrees: Degrees, which: str) -> None:
    cluster = parse_cluster("2x8xH100:roce-200")
    link = getattr(cluster, which)
    faster = replace(cluster, **{which: replace(link, bytes_per_second=4 * link.bytes_per_second)})
    quicker = replace(cluster, **{which: replace(link, latency_seconds=link.latency_seconds / 4)})
    assert on(faster, degrees).cache_off <= on(cluster, degrees).cache_off
    assert on(quicker, degrees).cache_off <= on(cluster, degrees).cache_off


def test_ulysses_across_slow_nodes_costs_more_than_inside_and_a_ring_less_than_ulysses() -> None:
    slow = "2x8xH100:ethernet-100"
    inside = on("2x8xH100", Degrees(cfg=2, ulysses=8)).parts_off
    crossing, ring = on(slow, Degrees(ulysses=16)).parts_off, on(slow, Degrees(ulysses=8, ring=2)).parts_off
    assert on(slow, Degrees(cfg=2, ulysses=8)).parts_off["ulysses"] == inside["ulysses"]  # its groups stay on a node
    assert crossing["ulysses"] > 10 * inside["ulysses"]
    assert ring["ulysses"] + ring["ring"] < crossing["ulysses"]


def test_a_port_that_a_node_shares_serves_all_its_ranks() -> None:
    ours = {name: link for name, link in LINKS.items() if link.shared_by_node}
    assert {"ethernet-100", "ethernet-25", "ethernet-10"} <= ours.keys()
    alone = replace(LINKS["ethernet-100"], shared_by_node=False)
    cluster = parse_cluster("2x8xH100:ethernet-100")
    degrees = Degrees(ulysses=16)
    shared, own = on(cluster, degrees), on(replace(cluster, between=alone), degrees)
    assert 6 < shared.parts_off["ulysses"] / own.parts_off["ulysses"] < 8.1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_cache_gains_less_than_the_blocks_that_it_leaves_out_and_less_on_more_ranks(share: float) -> None:
    work = workload(skipping=Skipping(share, "", probe_blocks=1))
    one, eight = on("1x1xH100", Degrees(), work=work), on("1x8xH100", work=work)
    ideal = 1 / (1 - share * (1 - 1 / 40))
    gains = [p.cache_off / p.cache_on for p in (one, eight)]
    assert 1 < gains[1] < ideal and 1 < gains[0] < ideal
    none = on("1x8xH100", work=workload(skipping=NEVER))
    assert none.cache_on == none.cache_off and none.skipped_step_seconds == 0


def test_a_skipped_step_is_its_probe_and_the_cache_arithmetic() -> None:
    work = workload()
    plan = Plan(parse_cluster("1x8xH100"), CFG_U4, LOCKSTEP)
    speeds = find_speeds(plan.cluster, LOCKSTEP, 8, "wan")
    computed, skipped = (
        step(work, plan, speeds, **kw) for step, kw in ((computed_step, {"cached": True}), (skipped_step, {}))
    )
    assert skipped["attention"] == pytest.approx(computed["attention"] / 40)
    assert skipped["cache"] > computed["cache"] > 0
    assert skipped["agreement"] == computed["agreement"] > 0
    assert "agreement" not in computed_step(work, plan, speeds, cached=False)


@pytest.mark.parametrize("name", [model.name for model in CATALOG])
@pytest.mark.parametrize("shard", [False, True])
def test_memory_is_the_engines_formula(name: str, shard: bool) -> None:
    work = workload(name)
    degrees = Degrees(cfg=work.branches, ulysses=2)
    plan = Plan(parse_cluster("1x8xH100"), degrees, LOCKSTEP, shard)
    memory = estimate(work.model, degrees, shard, vae_bytes=4)  # which LOCKSTEP decodes in
    expected = memory.peak_with_all if others_stay(work, plan) else memory.peak
    if work.experts == 1 or shard:
        assert memory_bytes(work, plan) == pytest.approx(expected, abs=4)
    without = memory_bytes(replace(work, skipping=NEVER), plan)
    assert without <= memory_bytes(work, plan)


def test_experts_that_stay_together_count_twice_and_those_that_do_not_are_copied() -> None:
    work = workload("Wan 2.2 T2V A14B")
    software = replace(LOCKSTEP, encoders_stay=False)
    small, large = (Plan(parse_cluster(f"1x8x{gpu}"), CFG_U4, software) for gpu in ("L40S", "H200"))
    assert swaps_experts(work, small) and not swaps_experts(work, large)
    one = 2 * work.transformer_parameters
    assert memory_bytes(work, large) - memory_bytes(work, small) == pytest.approx(one, abs=4)
    copied = [host_copied_bytes(work, plan) for plan in (small, large)]
    copies = [predict(work, plan).parts_off["host_copies"] for plan in (small, large)]
    assert copies[0] > copies[1] > 0
    assert copied[0] - copied[1] == pytest.approx(2 * one), "two come, and nothing goes back"
    assert predict(work, replace(small, shard_weights=True)).parts_off["host_copies"] < copies[1]


def test_ranks_share_whole_rows_or_tiles() -> None:
    plan = Plan(parse_cluster("1x8xH100"), CFG_U4, LOCKSTEP)
    assert decode_share(workload(), plan) == 12 / 90
    assert decode_share(workload("HunyuanVideo"), plan) == 39 / 308
    assert decode_share(workload("HunyuanVideo 1.5 T2V 720p"), plan) == 4 / 28
    assert decode_share(workload(), replace(plan, software=Software(decode_shared=False))) == 1


def test_parts_add_up_to_the_limits() -> None:
    best = on("4x8xH100", Degrees(cfg=2, ulysses=8, ring=2), shard=True)
    named = {name for names in GROUPS.values() for name in names}
    assert set(best.parts_on) | set(best.parts_off) <= named
    assert sum(best.limits().values()) == pytest.approx(best.cache_on)
    assert sum(best.limits(cached=False).values()) == pytest.approx(best.cache_off)


def test_lower_precision_is_faster_and_smaller_where_the_card_has_it() -> None:
    cluster = parse_cluster("1x8xB200")
    found = [predict(workload(), Plan(cluster, CFG_U4, Software(precision=p))) for p in ("bf16", "fp8", "fp4")]
    assert found[0].cache_off > found[1].cache_off > found[2].cache_off
    assert found[0].memory_bytes > found[1].memory_bytes >= found[2].memory_bytes
    with pytest.raises(InvalidInput, match=r"A100 has no matrix arithmetic for: use one of bf16\."):
        predict(workload(), Plan(parse_cluster("1x8xA100"), CFG_U4, Software(precision="fp8")))


def test_layouts_are_those_that_would_be_accepted() -> None:
    question = Question(workload())
    accepted = accepted_degrees(question, parse_cluster("1x8xH100"))
    assert {d.world_size for d in accepted} == {8}
    assert len(set(accepted)) == len(accepted) == 16
    sevens = accepted_degrees(question, parse_cluster("1x7xH100"))
    assert set(sevens) == {Degrees(data=7), Degrees(ring=7)}  # 7 divides neither the 40 heads nor the branches
    assert {d.cfg for d in accepted_degrees(Question(workload("HunyuanVideo")), parse_cluster("1x8xH100"))} == {1}


def test_goals_choose_what_they_say() -> None:
    question, cluster = Question(workload()), parse_cluster("1x8xH100")
    fast, many = choose(question, cluster, Goal.LATENCY), choose(question, cluster, Goal.THROUGHPUT)
    everything = [p for p in predictions(question, cluster) if p.fits]
    assert fast.best.cache_on == min(p.cache_on for p in everything)
    assert many.best.videos_per_hour == max(p.videos_per_hour for p in everything)
    assert many.best.plan.degrees == Degrees(data=8)
    assert "replicas send one another nothing" in many.why
    limit = (fast.best.cache_on + many.best.cache_on) / 2
    cheap = choose(question, cluster, Goal.DEADLINE, limit).best
    assert cheap.cache_on <= limit
    assert gpu_seconds(cheap) == min(gpu_seconds(p) for p in everything if p.cache_on <= limit)
    with pytest.raises(InvalidInput, match=r"no layout on 1x8xH100 meets: the best there is takes [0-9.]+ s \(cfg 2"):
        choose(question, cluster, Goal.DEADLINE, 1.0)


def test_what_fits_nowhere_is_refused_with_the_least_that_it_takes() -> None:
    with pytest.raises(InvalidInput, match=r"fits on no layout of 1x1xRTX4090: the least is 4\d GB"):
        choose(Question(workload()), parse_cluster("1x1xRTX4090"), Goal.LATENCY)
    # weights are shared out where a whole copy has no room
    shared = choose(Question(workload()), parse_cluster("1x8xRTX4090"), Goal.LATENCY).best
    assert shared.plan.shard_weights and shared.fits


def test_more_gpus_stop_paying() -> None:
    rows = scale(Question(workload()), parse_cluster("64x8xH100"))
    assert [row.gpus for row in rows] == [2**n for n in range(10)]
    hourly = [row.most.videos_per_hour for row in rows if row.most]
    assert hourly == sorted(hourly) and hourly[-1] == pytest.approx(512 * hourly[0])
    off, with_cache = stops_paying(rows, cached=False), stops_paying(rows, cached=True)
    assert off and with_cache and 1 < with_cache <= off < 512
    assert rows[0].efficiency_off == rows[0].efficiency_on == 1
    assert rows[-1].efficiency_off and rows[-1].efficiency_off < 0.5


@pytest.mark.parametrize("per_node", [1, 3, 7, 8, 12])
def test_rows_are_of_numbers_of_gpus_that_such_nodes_can_have(per_node: int) -> None:
    cluster = parse_cluster(f"1x{per_node}xH100")
    sizes = sizes_of(per_node)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] >= 512 and per_node in sizes
    assert [cluster.of_size(gpus).size for gpus in sizes] == sizes


def test_a_cluster_is_cut_into_whole_nodes() -> None:
    cluster = parse_cluster(" 4x8xh100 : roce-400 ")
    assert (cluster.nodes, cluster.per_node, cluster.card.name, cluster.between.name) == (4, 8, "H100", "roce-400")
    assert [(c.nodes, c.per_node) for c in map(cluster.of_size, (1, 4, 8, 16, 512))] == [
        (1, 1), (1, 4), (1, 8), (2, 8), (64, 8),
    ]  # fmt: skip
    assert parse_cluster("1x2xRTX 4090").card.name == "RTX4090"


@pytest.mark.parametrize(
    ("text", "link", "sentence"),
    [
        ("0x8xH100", None, "has no GPU: give at least 1x1xH100"),
        ("1x0xH100", None, "has no GPU"),
        ("8xH100", None, "is no cluster: write nodes x GPUs of a node x GPU"),
        ("", None, "is no cluster"),
        ("1x8xH900", None, "'H900', which is not known: use one of A100, H100, H200"),
        ("1x8xH100", "carrier-pigeon", "not known: use one of nvlink-3"),
        ("1x8xH100:roce-400", "roce-200", "give one of the two"),
        ("1000x8xH100", None, "plan for 4096 at most"),
        ("1x-8xH100", None, "is no cluster"),
    ],
)
def test_clusters_that_are_none(text: str, link: str | None, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse_cluster(text, link)


def test_the_table_has_every_card_with_a_source_and_rates_in_order() -> None:
    names = {"h100", "h200", "b200", "b300", "mi300x", "mi355x", "l40s", "rtx4090", "rtx5090", "a100"}
    assert names <= CARDS.keys()
    for card in CARDS.values():
        rates = [rate for rate in (card.bf16_flops, card.fp8_flops, card.fp4_flops) if rate]
        assert rates == sorted(rates) and card.source and card.inside in LINKS
        assert card.attention_flops("best") >= card.attention_flops("cudnn") >= card.attention_flops("flash2")
        assert 2e10 < card.memory_bytes < 3e11 and 5e11 < card.memory_bandwidth < 1e13
    assert {name.split("-")[0] for name in LINKS} >= {"nvlink", "pcie", "infiniband", "roce", "ethernet", "xgmi"}


@pytest.mark.parametrize(
    ("overrides", "share", "source"),
    [
        (("cache.method=none",), 0.0, "no cache"),
        ((), 0.58, "measured on the small model"),
        (("cache.threshold=0.3",), 0.6, "DiCache's authors"),
        (("cache.method=interval", "cache.gate.interval=5"), 0.8, "interval"),
        (("cache.method=taylorseer",), 0.76, "interval"),
        (("cache.method=dicache", "cache.warmup_ratio=0.7", "cache.threshold=0.3"), 0.3, "DiCache's authors"),
    ],
)
def test_the_assumed_share_of_skipped_steps_says_where_it_comes_from(
    overrides: tuple[str, ...], share: float, source: str
) -> None:
    found = make_workload(tiny_config("sampling.steps=50", *overrides)).skipping
    assert found.share == pytest.approx(share)
    assert source in found.source


def test_a_given_share_goes_before_an_assumed_one() -> None:
    found = find_skipping(tiny_config().cache, 50, 1, is_small_model=True, share=0.25)
    assert found.share == 0.25 and "--skip-share" in found.source and found.probe_blocks == 1


def test_sizes_of_a_model_that_is_in_no_catalog_come_from_its_folder() -> None:
    work = make_workload(tiny_config("sampling.steps=50"))
    assert (work.shape.dim, work.shape.num_blocks, work.lane.tokens, work.steps) == (128, 12, 80, 50)
    assert work.transformer_parameters == 2_979_520
    assert math.prod(work.model.video) == work.pixels == 17 * 64 * 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Wan 2.1 T2V 14B", "Wan 2.2 TI2V 5B", "HunyuanVideo", "HunyuanVideo 1.5 T2V 720p"])
def test_flops_of_a_pixel_are_those_of_the_formula(name: str) -> None:
    """The planner has them as numbers, so that it needs no torch."""
    work = workload(name)
    decoder, latents = find_decoder(work), work.facts.latents_shape(*work.model.video)
    flops = autoencoder_flops(work.shape.kind, work.model.vae, latents)
    assert decoder.flops * work.pixels == pytest.approx(flops, rel=0.03)
    if decoder.encode_flops:
        flops = autoencoder_flops(work.shape.kind, work.model.vae, latents, "encode")
        assert decoder.encode_flops * work.pixels == pytest.approx(flops, rel=0.03)
