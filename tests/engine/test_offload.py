"""Where weights are: host copies made once, nothing copied back, and the same bits with any offload."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFParameter
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.components.gguf_files import gguf_linear
from engine.config import Config
from engine.config_file import load_config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.execution.residency import StreamedBlocks, WholeTurns
from engine.models.catalog import CATALOG
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.movers import CountingMover
from tests.support.offloading import other_memory, write_two_experts
from tests.support.pictures import write_pictures
from tests.support.slow import all_slow_but
from tests.support.small_model import CONFIG, PROMPT, tiny_config
from tests.support.tiny_models import TINY_MODELS

SMALL = ("sampling.frames=5", "sampling.height=48", "sampling.width=112", "sampling.steps=6", "sampling.shift=8")


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_experts(tmp_path_factory.mktemp("experts"))


def configured(folder: Path, *overrides: str) -> Config:
    return tiny_config(f"model.path={folder}", *SMALL, "cache.threshold=0.3", *overrides)


def generate(engine: Engine, seed: int = 3) -> Result:
    config = engine.model.config
    return engine.generate(make_request([PROMPT], "", seed, config.sampling))


def run_both(ranks: Ranks, config: Config, frames: bool = False) -> tuple[Any, Any]:
    """Without and with weights that come and go: latents and steps, and the bytes that were copied."""
    plain = generate(Engine(load_model(config, ranks), Progress()))
    with other_memory() as mover:
        moved = generate(Engine(load_model(config, ranks), Progress()))
    return plain, (moved, mover.bytes_copied)


def actions(result: Result) -> list[str]:
    assert result.report
    return [row["action"] for row in result.report["steps"]]


@pytest.mark.parametrize("offload", ["experts", "blocks"])
def test_same_bits_and_nothing_is_copied_back(two_experts: Path, offload: str) -> None:
    config = configured(two_experts, f"runtime.offload={offload}")
    plain = generate(Engine(load_model(config, Ranks()), Progress()))
    assert {"skip", "compute"} <= set(actions(plain)), "blocks out of their usual order"
    with other_memory() as mover:
        model = load_model(config, Ranks())
        engine = Engine(model, Progress())
        homes = host_places(model)
        results = [generate(engine), generate(engine)]
        frames = engine.decode(results[0].latents[0])
        model.prepare(config.sampling, 0)
        model.residency.use(1)
    assert all(torch.equal(result.latents, plain.latents) and actions(result) == actions(plain) for result in results)
    expected = Engine(load_model(config, Ranks()), Progress()).decode(plain.latents[0])
    assert frames is not None and expected is not None and torch.equal(frames, expected)
    assert mover.copies and {source for source, _ in mover.copies} <= set(mover.pinned), "from the host copies alone"
    assert len(mover.pinned) == len(set(mover.pinned)) == len(homes), "which were made once"
    assert host_places(model) == homes


def host_places(model: Any) -> list[int]:
    """Where the host copies are."""
    turns = model.residency._weights
    pieces = [piece for turn in turns for piece in getattr(turn, "_blocks", None) or turn._pieces]
    pieces += [turn._outside for turn in turns if isinstance(turn, WholeTurns)]
    pieces += [piece for resident in model.residence._residents for piece in resident._pieces]
    return [piece._host.data_ptr() for piece in pieces]


def test_on_the_cpu_nothing_is_copied(two_experts: Path) -> None:
    for offload in ("none", "experts", "blocks"):
        model = load_model(configured(two_experts, f"runtime.offload={offload}"), Ranks())
        weights = {name: p.data_ptr() for e in model.experts for name, p in e.adapter.transformer.named_parameters()}
        with CopiesCounted(set(weights.values())) as counted:
            generate(Engine(model, Progress()))
        assert not counted.copied
        assert weights == {
            name: p.data_ptr() for e in model.experts for name, p in e.adapter.transformer.named_parameters()
        }


class CopiesCounted(TorchDispatchMode):
    """Copies of tensors at those addresses to another device or another place."""

    def __init__(self, addresses: set[int]) -> None:
        super().__init__()
        self._addresses, self.copied = addresses, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and "device" in kwargs and args[0].data_ptr() in self._addresses:
            self.copied += 1
        return func(*args, **kwargs)


def test_what_stays_comes_once(two_experts: Path) -> None:
    config = configured(two_experts, "runtime.offload=none")
    copied = []
    for stays in (False, True):
        with other_memory(stays) as mover:
            engine = Engine(load_model(config, Ranks()), Progress())
            for _ in range(3):
                generate(engine)
        copied.append(len(mover.copies))
        (encoder,) = engine.model.residence._residents[-1]._pieces
        assert encoder.is_here == stays, "it leaves after use unless there is room"
    assert copied == [3, 1], "the text encoder alone, since nothing is decoded"


def test_a_request_that_needs_the_room_gets_it(two_experts: Path) -> None:
    with other_memory(stays=True):
        model = load_model(configured(two_experts, "runtime.offload=none"), Ranks())
        generate(Engine(model, Progress()))
        (piece,) = model.residence._residents[-1]._pieces
        assert piece.is_here
    with other_memory(stays=False):
        model.prepare(model.config.sampling, 0)
    assert not piece.is_here


FAMILIES = ["Wan 2.1 I2V 14B 480P", "HunyuanVideo", "HunyuanVideo I2V", "HunyuanVideo 1.5 I2V 480p"]


@pytest.mark.parametrize("name", all_slow_but(FAMILIES[1:2], FAMILIES))
def test_every_family_streams_its_blocks(name: str, tmp_path: Path) -> None:
    tiny, recipe = TINY_MODELS[name], next(model.recipe for model in CATALOG if model.name == name)
    overrides = (*tiny.overrides(tiny.write(tmp_path / "model")), "sampling.steps=3", "runtime.offload=blocks")
    config = load_config(CONFIG.parent / recipe, overrides)
    request = make_request([PROMPT], "", 3, config.sampling, *write_pictures(tmp_path)[: tiny.images])
    plain = Engine(load_model(config, Ranks()), Progress()).generate(request)
    with other_memory() as mover:
        moved = Engine(load_model(config, Ranks()), Progress()).generate(request)
    # the last bit of a product on the CPU depends on where its weights begin, which mapped files decide otherwise
    difference = (plain.latents - moved.latents).abs().max() / plain.latents.abs().max()
    assert mover.bytes_copied and difference <= 1e-5 and actions(plain) == actions(moved)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(cfg=2), Degrees(ring=2)], ids=str)
def test_every_layout_streams_its_blocks(gang: Gang, two_experts: Path, degrees: Degrees) -> None:
    results = gang.run(run_both, degrees, configured(two_experts, "runtime.offload=blocks"))
    for plain, (moved, copied) in results:
        assert copied and torch.equal(plain.latents, moved.latents)
    assert actions(results[0][0]) == actions(results[0][1][0])


class Blocks(nn.Module):
    """Blocks of different sizes, with tied weights and a buffer, and a layer outside."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.outside = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3 + i), nn.Linear(3 + i, 3)) for i in range(count))
        self.blocks[0][1].weight = nn.Parameter(torch.randn(3, 3))
        self.blocks[0][0].weight = self.blocks[0][1].weight
        self.blocks[1].register_buffer("table", torch.arange(5))
        self.requires_grad_(False)


def test_the_next_block_comes_while_one_runs_and_two_are_there() -> None:
    mover, module = CountingMover(), Blocks()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    streamed = StreamedBlocks(module, mover)
    streamed.bring()
    pieces = streamed._pieces
    for number in (0, 1, 2, 3, 0, 1, 3, 0):  # a skip after 1, and one that nothing foresaw
        copies = len(mover.copies)
        foreseen = pieces[number].is_here
        with streamed.on_device(number):
            assert sum(piece.is_here for piece in pieces) == 2
            assert pieces[(number + 1) % 4].is_here, "the next one is on its way"
            assert pieces[number]._copied is None, "this one was waited for"
            for name, tensor in module.state_dict().items():
                assert torch.equal(tensor, before[name])
        assert foreseen or number in (0, 3)
        assert len(mover.copies) - copies <= 2
    buffers = {buffer.data_ptr() for buffer in streamed._buffers}
    assert len(buffers) == 2 and all(piece._held is None or piece._held.data_ptr() in buffers for piece in pieces)
    streamed.drop()
    assert not any(piece.is_here for piece in pieces)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_buffer_is_written_to_after_the_block_in_it_has_run() -> None:
    mover, module = CountingMover(), Blocks()
    streamed = StreamedBlocks(module, mover)
    streamed.bring()
    done = None  # the mark after the block that ran last
    for number in (0, 1, 2, 3, 0, 1):
        mover.events.clear()
        with streamed.on_device(number):
            pass
        starts = [after for kind, (after, _) in [e for e in mover.events if e[0] == "copy"]]
        assert starts == ([None, None] if done is None else [done]), "not while the block before the last one runs"
        done = streamed._free[streamed._holds.index(number)]


def test_a_transformer_waits_for_one_block_at_a_time() -> None:
    mover, module = CountingMover(), Blocks()
    turns = WholeTurns(module, mover)
    turns.bring()
    assert len([event for event in mover.events if event[0] == "await"]) == 1, "for what is outside the blocks"
    with turns.on_device(2):
        assert turns._blocks[2]._copied is None
    assert [piece._copied is None for piece in turns._blocks] == [False, False, True, False]
    turns.drop()
    assert not any(piece.is_here for piece in (turns._outside, *turns._blocks))


def test_convolutions_stay_channels_last() -> None:
    from engine.components.host_copies import Piece
    from engine.components.memory_format import to_channels_last

    module = nn.Sequential(nn.Conv3d(4, 8, 3), nn.Conv2d(4, 8, 3)).requires_grad_(False)
    to_channels_last(module)
    before = [(tensor.stride(), tensor.clone()) for tensor in module.parameters()]
    piece = Piece(module.modules(), CountingMover())
    for move in (lambda: None, piece.bring, piece.drop):
        move()
        for tensor, (strides, value) in zip(module.parameters(), before, strict=True):
            assert tensor.stride() == strides and torch.equal(tensor, value)


def _quantised(module: nn.Module) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig())


def _in_gguf(module: nn.Module) -> None:
    for name, layer in list(module.named_children()):
        packed = gguf.quants.quantize(layer.weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
        weight = GGUFParameter(torch.from_numpy(packed), quant_type=gguf.GGMLQuantizationType.Q8_0)
        module.register_module(name, gguf_linear(layer, weight, torch.float32))


@pytest.mark.parametrize("prepare", [lambda module: None, _quantised, _in_gguf], ids=["plain", "int8", "GGUF"])
def test_pieces_of_quantised_tensors(prepare: Callable[[nn.Module], None]) -> None:
    from engine.components.host_copies import Piece

    mover, module = CountingMover(), nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).requires_grad_(False)
    prepare(module)
    x = torch.randn(2, 32)
    before = module(x)
    piece = Piece(module.modules(), mover)
    assert torch.equal(module(x), before)
    for _ in range(2):
        piece.bring()
        piece.ready()
        assert torch.equal(module(x), before)
        piece._held.fill_(0)  # type: ignore[union-attr]
        assert not torch.equal(module(x), before), "it is the device's copy that runs"
        piece.drop()
        assert torch.equal(module(x), before)
    assert len(mover.copies) == 2
