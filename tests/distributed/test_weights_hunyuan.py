"""Sharded weights of HunyuanVideo's transformers: same bits from a part of the weights, two kinds of blocks or one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel, HunyuanVideoTransformer3DModel
from torch import Tensor
from torch.distributed.tensor import DTensor

from engine.components.transformer import load_sharded_transformer
from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.models.hunyuan_video15 import HunyuanVideo15Adapter
from engine.progress import Progress
from engine.request import make_request
from parallel.attention import install_sequence_attention
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import plan_shards
from tests.support.gang import Gang
from tests.support.hunyuan_checkpoint import write_hunyuan_checkpoint
from tests.support.small_model import tiny_config
from tests.support.tiny_hunyuan import ask_adapter, make_inputs, make_transformer

PROMPTS = ["a red circle", "a blue square moving slowly left on the navy background"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hunyuan_checkpoint(tmp_path_factory.mktemp("models") / "HunyuanVideo")


def configured(model: Path, *overrides: str) -> Config:
    """3 x 3 x 5 = 45 tokens."""
    small = ["height=48", "width=80", "frames=9", "steps=8", "guidance=6", "shift=7", "scheduler=euler"]
    sampling = [f"sampling.{setting}" for setting in (*small, "max_sequence_length=256")]
    cache = ("cache.method=dicache", "cache.threshold=0.2", "cache.estimator.gamma_max=1.5")
    return tiny_config(f"model.path={model}", *cache, *sampling, *overrides)


def copy_out(transformer: Any) -> Any:
    """The same weights at aligned addresses: those of a float32 file stay where they are mapped, where MKL rounds
    differently, and gathered ones are aligned."""
    for parameter in transformer.parameters():
        parameter.data = parameter.data.clone()
    return transformer


def generate_both(ranks: Ranks, whole: Config) -> tuple[list[Result], list[bool], list[str]]:
    """Results with whole and with sharded weights, whether this rank then has text encoders, and the names of the
    parameters that it holds whole then."""
    parallel = whole.parallel.model_copy(update={"shard_weights": True})
    results, encoders, kept = [], [], []
    for config in (whole, whole.model_copy(update={"parallel": parallel})):
        loaded = load_model(config, ranks)
        encoders.append(loaded.text_encoder is not None)
        if not config.parallel.shard_weights:
            copy_out(loaded.adapter.transformer)
        kept = [name for name, p in loaded.adapter.transformer.named_parameters() if not isinstance(p, DTensor)]
        request = make_request(PROMPTS, "", 7, config.sampling)
        results.append(Engine(loaded, Progress()).generate(request))
    return results, encoders, kept


@pytest.mark.parametrize(
    ("degrees", "overrides"),
    [(Degrees(ulysses=2), ()), (Degrees(ring=3), ("model.dtype=bfloat16",))],
    ids=["ulysses2", "ring3, which divides none of the model's sizes, in bfloat16"],
)
def test_same_bits_from_a_part_of_the_weights(
    gang: Gang, degrees: Degrees, overrides: tuple[str, ...], model: Path
) -> None:
    outcomes = gang.run(generate_both, degrees, configured(model, *overrides))
    (whole, parts), _, _ = outcomes[0]
    assert whole.report and parts.report
    for number, (results, encoders, kept) in enumerate(outcomes):
        assert all(torch.equal(result.latents, whole.latents) for result in results)
        assert encoders == [number == 0] * 2, "the text encoders are on the first rank alone, whole"
        assert kept and all("norm" in name for name in kept), "what no matrix goes with"
    actions = [[row["action"] for row in report["steps"]] for report in (whole.report, parts.report)]
    assert actions[0] == actions[1] and {"skip", "compute"} <= set(actions[0])
    share = parts.report["totals"]["weight_bytes_per_rank"] / whole.report["totals"]["weight_bytes_per_rank"]
    assert share == pytest.approx(1 / degrees.world_size, rel=0.05)
    assert parts.report["request"]["parallel"]["shard_weights"]
    assert parts.report["totals"]["collective_bytes_by_kind"]["weights"] > 0


def gather_all(ranks: Ranks, config: Config) -> dict[str, Tensor]:
    transformer, _ = load_sharded_transformer(config, ranks, HunyuanVideoTransformer3DModel)
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in transformer.named_parameters()
    }


def test_what_is_loaded_is_what_from_pretrained_loads(gang: Gang, model: Path) -> None:
    plain = HunyuanVideoTransformer3DModel.from_pretrained(model / "transformer", dtype=torch.bfloat16)
    for loaded in gang.run(gather_all, Degrees(ring=2), configured(model, "model.dtype=bfloat16")):
        expected = dict(plain.named_parameters())
        assert loaded.keys() == expected.keys()
        for name, tensor in expected.items():
            assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


@pytest.fixture(scope="module")
def model15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of HunyuanVideo 1.5 the transformer alone."""
    folder = tmp_path_factory.mktemp("models") / "HunyuanVideo-1.5"
    make_transformer("1.5 image").save_pretrained(folder / "transformer")
    return folder


def ask_both(ranks: Ranks, config: Config) -> list[Tensor]:
    """This rank's tokens of one step of HunyuanVideo 1.5, with whole and with sharded weights."""
    kind = HunyuanVideo15Transformer3DModel
    latents, lane = make_inputs("1.5 image", (3, 3, 5), num_text=7, padding=2)
    shards, timestep, meter = plan_shards(45, ranks), torch.tensor([400.0]), CollectiveMeter()
    whole = copy_out(kind.from_pretrained(f"{config.model.path}/transformer").eval())
    parts, weights = load_sharded_transformer(config, ranks, kind)
    asked: list[Tensor] = []
    for transformer, running in ((whole, None), (parts, weights)):
        attention: Any = install_sequence_attention(transformer, ranks)
        attention.begin(shards, meter)
        with torch.inference_mode(), running.running(meter) if running else torch.no_grad():
            asked.append(ask_adapter(HunyuanVideo15Adapter(transformer), latents, timestep, lane, shards, (1,))[0])
    return asked


def test_the_other_transformer_by_its_class_alone(gang: Gang, model15: Path) -> None:
    """HunyuanVideo 1.5 has one kind of blocks, and layers that the other has not: an image embedder, a table."""
    for whole, parts in gang.run(ask_both, Degrees(ulysses=2), tiny_config(f"model.path={model15}")):
        assert whole.numel() and torch.equal(whole, parts)
