"""runtime.deterministic: the same bits and decisions in every layout, in bfloat16 too."""

import pytest
import torch
from torch import Tensor, nn

from engine.config import Config
from engine.engine import Engine, Result
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.attention import install_sequence_attention
from parallel.degrees import Degrees
from parallel.fixed_rows import FixedRows, complaint_about_places
from parallel.joint import drop_masks
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import gather, plan_shards
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config
from tests.support.tiny_hunyuan import ask_adapter, make_adapter, make_inputs, make_transformer, one_rank

BF16 = ("model.dtype=bfloat16", "cache.method=dicache", "cache.threshold=0.2", "sampling.steps=8")
SIZE = ("sampling.frames=5", "sampling.height=48", "sampling.width=112")  # 42 tokens: uneven on 4 ranks
LAYOUTS = [Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2, ring=2), Degrees(ulysses=2, ring=2)]


def generate(ranks: Ranks, configs: list[Config]) -> list[Result]:
    results = []
    for config in configs:
        engine = Engine(load_model(config, ranks), Progress())
        results.append(engine.generate(make_request([PROMPT], "", 7, config.sampling)))
    return results


@pytest.fixture(scope="module")
def configs() -> list[Config]:
    return [tiny_config(*BF16, *SIZE, f"runtime.deterministic={value}") for value in ("true", "false")]


@pytest.fixture(scope="module")
def alone(configs: list[Config]) -> list[Result]:
    return generate(Ranks(), configs)


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
def test_every_layout_gives_the_bits_of_one_rank(
    gang: Gang, alone: list[Result], configs: list[Config], degrees: Degrees
) -> None:
    fixed, free = gang.run(generate, degrees, configs)[0]
    assert torch.equal(fixed.latents, alone[0].latents)
    assert fixed.report and alone[0].report
    assert [row["action"] for row in fixed.report["steps"]] == [row["action"] for row in alone[0].report["steps"]]
    assert {row["action"] for row in fixed.report["steps"]} >= {"skip", "compute"}
    if degrees.ring > 1:
        assert not torch.equal(free.latents, alone[1].latents), "without it the case must differ to show anything"


def ask(ranks: Ranks, kind: str) -> Tensor:
    transformer = make_transformer(kind, 12).to(torch.bfloat16)
    if kind.startswith("1.5"):
        drop_masks(transformer)
    adapter = make_adapter(transformer)
    latents, lane = make_inputs(kind, (5, 2, 14), 7, 4)
    lane = {name: t.bfloat16() if t.is_floating_point() else t for name, t in lane.items()}
    shards = one_rank(adapter, latents)
    if ranks.sequence_group is not None:
        attention = install_sequence_attention(transformer, ranks, deterministic=True)
        shards = plan_shards(adapter.num_tokens(latents.shape), ranks)
        attention.begin(shards, CollectiveMeter())
    with FixedRows(torch.device("cpu")):
        velocity, _ = ask_adapter(adapter, latents.bfloat16(), torch.tensor(737.0), lane, shards, [1])
    return gather(velocity, shards, ranks, CollectiveMeter())


@pytest.mark.parametrize("kind", ["text", "1.5 text"])
def test_joint_attention_sees_keys_in_one_order(gang: Gang, kind: str) -> None:
    """Ranks hold video, then text; on one rank all of the text comes after all of the video."""
    expected = ask(Ranks(), kind)
    for degrees in (Degrees(ulysses=3), Degrees(ulysses=2, ring=2)):
        for velocity in gang.run(ask, degrees, kind):
            assert torch.equal(velocity, expected), degrees


def test_a_product_that_depends_on_the_place_of_a_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uneven(nn.Linear):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens) + torch.arange(tokens.shape[0])[:, None] * 1e-6

    assert complaint_about_places(nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))) is None
    complaint = complaint_about_places(nn.Sequential(nn.Linear(8, 4), Uneven(4, 8)))
    assert complaint and "4 x 8" in complaint
    monkeypatch.setattr("engine.execution.attention.complaint_about_places", lambda _: complaint)
    with pytest.raises(InvalidInput, match=r"runtime\.deterministic is true, but on this machine the product"):
        load_model(tiny_config("runtime.deterministic=true"), Ranks())
