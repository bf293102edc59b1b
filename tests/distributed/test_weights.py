"""Sharded weights change nothing but the memory: same bits, a part of the bytes on each rank, read or held."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import UMT5EncoderModel

from engine.components.transformer import load_sharded_transformer
from engine.components.wan.prompt_encoder import load_sharded_encoder
from engine.config import Config
from engine.engine import Engine, Result
from engine.errors import Cancelled
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel import slices
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config

SMALL = ("sampling.frames=5", "sampling.height=48", "sampling.width=112")  # 42 tokens, which 4 does not divide
PROMPTS = (PROMPT, "a green square moving up on a gray background")
DICACHE = ("cache.threshold=0.2",)
PER_BRANCH = ("cache.decide=per_branch", "cache.threshold=0.1")
BFLOAT16 = ("model.dtype=bfloat16",)


def sharded(config: Config) -> Config:
    return config.model_copy(update={"parallel": config.parallel.model_copy(update={"shard_weights": True})})


def request_for(config: Config, prompts: Sequence[str] = (PROMPT,)) -> GenerationRequest:
    return make_request(list(prompts), "", 7, config.sampling)


def generate(ranks: Ranks, config: Config, prompts: Sequence[str] = (PROMPT,)) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(request_for(config, prompts))


def generate_both(ranks: Ranks, config: Config, prompts: Sequence[str] = (PROMPT,)) -> tuple[Result, Result]:
    return generate(ranks, config, prompts), generate(ranks, sharded(config), prompts)


@pytest.mark.parametrize(
    ("degrees", "settings"),
    [
        pytest.param(Degrees(ulysses=2), DICACHE, id="ulysses2"),
        pytest.param(Degrees(ring=3), DICACHE, id="ring3, which divides none of the model's sizes"),
        pytest.param(Degrees(cfg=2, ulysses=2), DICACHE, id="cfg2-ulysses2", marks=pytest.mark.slow),
        pytest.param(Degrees(cfg=2), PER_BRANCH, id="cfg2 per branch, two prompts"),
        pytest.param(Degrees(cfg=2, ring=2), PER_BRANCH, id="cfg2-ring2 per branch"),
        pytest.param(
            Degrees(ulysses=2), BFLOAT16, id="ulysses2 bfloat16, some weights in float32", marks=pytest.mark.slow
        ),
    ],
)
def test_same_bits_from_a_part_of_the_weights(gang: Gang, degrees: Degrees, settings: tuple[str, ...]) -> None:
    prompts = PROMPTS if degrees == Degrees(cfg=2) else (PROMPT,)
    results = gang.run(generate_both, degrees, tiny_config(*SMALL, *settings), prompts)

    whole, parts = results[0][0].report, results[0][1].report
    assert whole and parts
    for plain, shared in results:
        assert torch.equal(plain.latents, results[0][0].latents)
        assert torch.equal(shared.latents, results[0][0].latents)
    assert actions_of(parts) == actions_of(whole)
    assert {row["action"] for row in whole["steps"]} >= {"skip", "compute"}
    if settings == PER_BRANCH:
        assert any(len(set(step)) > 1 for step in actions_of(whole).values()), "the branches must differ somewhere"
    assert parts["model"] == whole["model"]
    share = parts["totals"]["weight_bytes_per_rank"] / whole["totals"]["weight_bytes_per_rank"]
    assert share == pytest.approx(1 / degrees.world_size, rel=0.02)
    assert parts["request"]["parallel"]["shard_weights"] and not whole["request"]["parallel"]["shard_weights"]


def actions_of(report: dict[str, Any]) -> dict[int, list[str]]:
    """The lanes' actions by step."""
    actions: dict[int, list[str]] = {}
    for row in report["steps"]:
        actions.setdefault(row["step"], []).append(row["action"])
    return actions


def test_one_rank_has_nobody_to_share_with() -> None:
    config = tiny_config(*SMALL)
    plain, alone = generate_both(Ranks(), config)
    assert torch.equal(plain.latents, alone.latents)
    assert plain.report and alone.report
    assert not alone.report["request"]["parallel"]["shard_weights"]
    weight_bytes = alone.report["totals"]["weight_bytes_per_rank"]
    assert weight_bytes == plain.report["totals"]["weight_bytes_per_rank"] == 4 * alone.report["model"]["parameters"]


def generate_after_a_cancelled_one(ranks: Ranks, config: Config) -> tuple[list[Result], list[str]]:
    """A request that rank 1 cancels after skipped steps, for which a block was gathered ahead; then two more."""
    engine = Engine(load_model(config, ranks), Progress())
    asked = iter(range(-1, 1000))  # once before the first step
    cancelled = []
    try:
        engine.generate(
            request_for(config), control=lambda: Control.CANCEL if next(asked) == 6 and ranks.rank == 1 else Control.RUN
        )
    except Cancelled as error:
        cancelled.append(str(error))
    return [engine.generate(request_for(config)) for _ in range(2)], cancelled


def test_a_request_leaves_nothing_gathered_behind(gang: Gang) -> None:
    config = sharded(tiny_config(*SMALL, *DICACHE))
    outcomes = gang.run(generate_after_a_cancelled_one, Degrees(ulysses=2), config)
    fresh = gang.run(generate, Degrees(ulysses=2), config)[0]
    for results, cancelled in outcomes:
        assert cancelled == ["Cancelled at denoise step 6."]
        assert all(torch.equal(result.latents, fresh.latents) for result in results)
    assert fresh.report
    for result in outcomes[0][0]:
        assert result.report
        assert sent(result.report) == sent(fresh.report), "a block that was still there was not gathered anew"


def sent(report: dict[str, Any]) -> int:
    return report["totals"]["collective_bytes_by_kind"]["weights"]


def generate_and_weigh(ranks: Ranks, config: Config, prompts: Sequence[str]) -> tuple[Result, dict[str, int]]:
    """The result, and the bytes that this rank holds of each unit's parameters."""
    model = load_model(config, ranks)
    assert model.text_encoder is not None
    shares: Counter[str] = Counter()
    for module in (model.adapter.transformer, model.text_encoder._pipeline.text_encoder):
        for name, parameter in module.named_parameters():
            if isinstance(parameter, DTensor):
                unit = ".".join(name.split(".")[:2]) if name.startswith("blocks.") else name.rpartition(".")[0]
                shares[unit] += parameter.to_local().untyped_storage().nbytes()
    return Engine(model, Progress()).generate(request_for(config, prompts)), dict(shares)


@pytest.mark.parametrize(
    ("degrees", "settings"),
    [
        pytest.param(Degrees(ulysses=2), ("cache.method=none", "sampling.steps=3"), id="ulysses2 without a cache"),
        pytest.param(Degrees(cfg=2), PER_BRANCH, id="cfg2 per branch"),
    ],
)
def test_each_unit_is_gathered_once_for_each_time_it_runs(
    gang: Gang, degrees: Degrees, settings: tuple[str, ...]
) -> None:
    """One rank of two sends its share of a unit once a gather."""
    config = sharded(tiny_config(*SMALL, *settings))
    result, shares = gang.run(generate_and_weigh, degrees, config, PROMPTS)[0]
    assert result.report
    gathers = expected_gathers(result.report, lanes_per_rank=4 // degrees.cfg)
    runs_of_text_encoder = 2  # for the prompts, and for the negative prompt
    assert sent(result.report) == sum(gathers.get(unit, runs_of_text_encoder) * share for unit, share in shares.items())


def expected_gathers(report: dict[str, Any], lanes_per_rank: int) -> Counter[str]:
    """How often the transformer's units are gathered, given what was decided for two samples' lanes."""
    steps, blocks, gathers = report["request"]["sampling"]["steps"], report["model"]["blocks"], Counter[str]()
    per_rank = lanes_per_rank // 2  # lanes of one sample
    embedder = "condition_embedder"
    gathers.update({f"{embedder}.text_embedder.linear_{i}": lanes_per_rank for i in (1, 2)})
    gathers.update({f"{embedder}.time_embedder.linear_{i}": 2 * steps for i in (1, 2)})
    gathers.update({"patch_embedding": 2 * steps, f"{embedder}.time_proj": 2 * steps})
    gathers.update({"proj_out": lanes_per_rank * steps})
    ahead = False  # whether block 1 was gathered while block 0, the probe, was running, and has not run since
    for step in range(steps):
        gathers["blocks.0"] += lanes_per_rank
        gathers["blocks.1"] += not ahead
        ahead = True
        for sample in range(2):
            rows = [row for row in report["steps"] if (row["step"], row["sample"]) == (step, sample)]
            for _ in range(per_rank) if any(row["action"] != "skip" for row in rows) else ():
                gathers["blocks.1"] += not ahead
                ahead = False
                gathers.update(f"blocks.{i}" for i in range(2, blocks))
    return gathers


def record_order(ranks: Ranks, config: Config) -> list[str]:
    """The order in which the transformer's weights are gathered ("gather") and its blocks run ("run")."""
    model = load_model(config, ranks)
    events: list[str] = []
    for block in model.adapter.transformer.blocks:
        block.register_forward_pre_hook(lambda *_: events.append("run"))
    count = CollectiveMeter.count

    def recorded(meter: CollectiveMeter, kind: str, tensor: Tensor, peers: int) -> None:
        count(meter, kind, tensor, peers)
        if kind == "weights":
            events.append("gather")

    with mock.patch.object(CollectiveMeter, "count", recorded):
        Engine(model, Progress()).generate(request_for(config))
    return events


def test_the_next_block_is_on_its_way_while_one_runs(gang: Gang) -> None:
    config = sharded(tiny_config(*SMALL, "cache.method=none", "sampling.steps=1", "sampling.guidance=1"))
    for events in gang.run(record_order, Degrees(ulysses=2), config):
        first, last = events.index("run"), len(events) - 1 - events[::-1].index("run")
        assert events[first - 2 : first] == ["gather", "gather"], "the first block and the second"
        blocks = events.count("run")
        assert events[first : last + 1] == ["run", "gather"] * (blocks - 2) + ["run", "run"]
        assert events[last + 1 :] == ["gather"], "the last layer, and no block for a step that does not come"


def run_one_replica(ranks: Ranks, config: Config) -> Tensor | None:
    if ranks.first_in_replica == 0:
        return None
    transformer, weights = load_sharded_transformer(config, ranks, WanTransformer3DModel)
    with torch.inference_mode(), weights.running(CollectiveMeter()):
        return transformer.proj_out(torch.ones(1, transformer.config.num_attention_heads * 32))


def test_replicas_do_not_wait_for_one_another(gang: Gang) -> None:
    config = tiny_config()
    results = gang.run(run_one_replica, Degrees(data=2, ulysses=2), config, timeout_seconds=30)
    whole = WanTransformer3DModel.from_pretrained(config.model.path, subfolder="transformer")
    expected = whole.proj_out(torch.ones(1, whole.config.num_attention_heads * 32))
    assert results[:2] == [None, None]
    assert all(torch.equal(result, expected) for result in results[2:])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 model, its transformer over several files, with a second set of weights beside them."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer")
    shutil.rmtree(folder / "transformer")
    transformer.save_pretrained(folder / "transformer", max_shard_size="50KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 3
    zeros = {name: torch.zeros_like(tensor) for name, tensor in transformer.state_dict().items()}
    save_file(zeros, folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors")
    return folder


@pytest.fixture(scope="module")
def two_experts(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model with a second transformer for low noise, each of its weights a little off."""
    folder = tmp_path_factory.mktemp("experts") / "model"
    shutil.copytree(checkpoint, folder)
    second = WanTransformer3DModel.from_pretrained(checkpoint / "transformer").requires_grad_(False)
    for parameter in second.parameters():
        parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    second.save_pretrained(folder / "transformer_2")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_each_of_two_experts_is_shared_out(gang: Gang, two_experts: Path) -> None:
    # not in float32: on the CPU the weights of a float32 file stay where they are mapped, and MKL rounds differently
    # at addresses that are not aligned, which the gathered ones are
    config = tiny_config(*SMALL, *BFLOAT16, f"model.path={two_experts}", "sampling.shift=8", "cache.threshold=0.3")
    results = gang.run(generate_both, Degrees(cfg=2, ulysses=2), config)
    whole, parts = results[0][0].report, results[0][1].report
    assert whole and parts
    for plain, shared in results:
        assert torch.equal(shared.latents, plain.latents)
    assert parts["model"] == whole["model"]
    share = parts["totals"]["weight_bytes_per_rank"] / whole["totals"]["weight_bytes_per_rank"]
    assert 0.25 < share < 0.35, "float32 tables, of which each rank has the whole, are a good part of so small a model"


def load_and_gather(ranks: Ranks, config: Config) -> list[dict[str, Tensor]]:
    """All parameters and buffers of transformer and text encoder, as the ranks hold them together."""
    transformer, _ = load_sharded_transformer(config, ranks, WanTransformer3DModel)
    encoder, _ = load_sharded_encoder(config, ranks)
    assert not transformer.training and not encoder.training
    return [
        {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in all_tensors(module)}
        for module in (transformer, encoder)
    ]


def all_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_loaded_is_what_from_pretrained_loads(gang: Gang, checkpoint: Path, dtype: str) -> None:
    config = tiny_config(f"model.path={checkpoint}", f"model.dtype={dtype}")
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    transformer = WanTransformer3DModel.from_pretrained(checkpoint / "transformer", **options)
    encoder = UMT5EncoderModel.from_pretrained(checkpoint / "text_encoder", **options)
    dtypes = {parameter.dtype for parameter in transformer.parameters()}
    assert len(dtypes) == (2 if dtype == "bfloat16" else 1), "some of a bfloat16 model stays in float32"

    for rank in gang.run(load_and_gather, Degrees(ring=3), config):
        for loaded, module in zip(rank, (transformer, encoder), strict=True):
            expected = dict(all_tensors(module))
            assert loaded.keys() == expected.keys()
            for name, tensor in expected.items():
                assert loaded[name].dtype == tensor.dtype, name
                assert torch.equal(loaded[name], tensor), name


class ReadingMeter:
    """Stands in for safetensors' ``safe_open`` and counts what is read."""

    def __init__(self) -> None:
        self.bytes = 0
        self.largest: Counter[str] = Counter()

    def __call__(self, file: Path, framework: str, device: str = "cpu") -> "ReadingMeter":
        self._file = safe_open(file, framework=framework, device=device)
        return self

    def __enter__(self) -> "ReadingMeter":
        self._open = self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def keys(self) -> list[str]:
        return self._open.keys()

    def get_slice(self, name: str) -> Any:
        reader, meter = self._open.get_slice(name), self

        class Slice:
            get_shape = reader.get_shape

            def __getitem__(self, index: Any) -> Tensor:
                tensor: Tensor = reader[index]
                meter.bytes += tensor.nbytes
                meter.largest[name] = max(meter.largest[name], tensor.nbytes)
                return tensor

        return Slice()


def measure_reading(ranks: Ranks, config: Config) -> tuple[int, Counter[str]]:
    meter = ReadingMeter()
    with mock.patch.object(slices, "safe_open", meter):
        load_sharded_transformer(config, ranks, WanTransformer3DModel)
    return meter.bytes, meter.largest


def test_no_rank_reads_more_than_its_part(gang: Gang, checkpoint: Path) -> None:
    whole = WanTransformer3DModel.from_pretrained(checkpoint / "transformer")
    sizes = {name: parameter.nbytes for name, parameter in whole.named_parameters()}
    results = gang.run(measure_reading, Degrees(ulysses=4), tiny_config(f"model.path={checkpoint}"))
    on_every_rank = 3 * sizes["scale_shift_table"]
    assert sum(read for read, _ in results) == sum(sizes.values()) + on_every_rank, "each row once, by one rank"
    for read, largest in results:
        assert read < 0.27 * sum(sizes.values())
        assert all(largest[name] <= size / 4 for name, size in sizes.items() if not name.endswith("scale_shift_table"))


def complain(ranks: Ranks, config: Config) -> str:
    try:
        load_model(config, ranks)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize(
    ("part", "how", "complaint"),
    [
        ("transformer", "missing", "proj_out.weight is missing"),
        ("transformer", "shape", "proj_out.weight has the shape [3, 5] instead of [64, 48]"),
        ("transformer", "unexpected", "surprise is unknown to this model"),
        ("text_encoder", "missing", "shared.weight are missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_sentence_on_every_rank(
    gang: Gang, checkpoint: Path, tmp_path: Path, part: str, how: str, complaint: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    damage(folder, part, how)
    messages = gang.run(complain, Degrees(ulysses=2), sharded(tiny_config(f"model.path={folder}")))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"InvalidInput: The weights in {folder / part} are not those of its config.json (")
    assert complaint in messages[0]
    assert messages[0].endswith("): download the model again, or correct model.path.") and "\n" not in messages[0]


def damage(folder: Path, part: str, how: str) -> None:
    if part == "transformer":
        shards = folder / part / "diffusion_pytorch_model.safetensors.index.json"
        index = json.loads(shards.read_text())
        tensor = "proj_out.weight"
        file = folder / part / index["weight_map"][tensor]
        if how == "missing":  # an index that lies is found out before
            del index["weight_map"][tensor]
            shards.write_text(json.dumps(index))
    else:
        tensor, file = "shared.weight", folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    match how:
        case "missing":
            del tensors[tensor]
        case "shape":
            tensors[tensor] = torch.zeros(3, 5)
        case "unexpected":
            tensors["surprise"] = torch.zeros(2)
    save_file(tensors, file)
