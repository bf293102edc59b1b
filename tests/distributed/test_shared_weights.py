"""Modules that one rank of a machine loads for all, with tensors of every kind, and the memory that they lie in."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from diffusers.quantizers.gguf.utils import GGUFParameter
from torch import Tensor, nn

from engine.components.node_copies import NodeCopies, whole
from engine.components.transformer import load_transformer
from engine.config import Config
from engine.errors import RankFailure
from parallel import shared_memory
from parallel.degrees import Degrees
from parallel.node import first_ranks_group, node_group
from parallel.ranks import Ranks
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.gang import Gang
from tests.support.one_machine import one_machine, open_descriptors
from tests.support.original_format import original_wan
from tests.support.quantised_files import write_gguf
from tests.support.small_model import tiny_config

CPU = torch.device("cpu")


def loaded_together(ranks: Ranks, load: Callable[[], Any]) -> tuple[Any, bool]:
    """The module as a rank has it, and whether all its weights are in shared memory."""
    with one_machine(ranks), node_group(ranks) as group:
        assert group is not None
        module, (row,) = NodeCopies(group).load(load, whole)
        inside = range(row.data_ptr(), row.data_ptr() + row.nbytes)
        parts = [part for tensor in (*module.parameters(), *module.buffers()) for part in plain_parts(tensor)]
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 64, generator=generator, dtype=torch.float32)
        out = module(x) if isinstance(module, nn.Sequential) else None
        return (out, [part.clone() for part in parts]), all(part.data_ptr() in inside for part in parts)


def plain_parts(tensor: Tensor) -> list[Tensor]:
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor.data.as_subclass(Tensor)]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]


def make_int8() -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).requires_grad_(False)
    quantize_(module, Int8WeightOnlyConfig())
    return module


def make_tied() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.BatchNorm1d(64).eval()).requires_grad_(False)
    module[1].weight = module[0].weight
    return module


@pytest.mark.parametrize("make", [make_int8, make_tied])
def test_modules_of_every_kind_of_tensor(gang: Gang, make: Callable[[], nn.Module]) -> None:
    (first, inside), (second, also_inside) = gang.run(loaded_together, Degrees(ulysses=2), make)
    assert inside and also_inside
    expected = make()(torch.randn(2, 64, generator=torch.Generator().manual_seed(1)))
    for out, parts in (first, second):
        assert torch.equal(out, expected)
        assert len(parts) == len(first[1]) and all(map(torch.equal, parts, first[1]))
    alone = [part for tensor in (*make().parameters(), *make().buffers()) for part in plain_parts(tensor)]
    assert len(first[1]) == len(alone), "tied ones are one"


def make_without_name() -> nn.Module:
    module = make_tied()
    module.function = lambda: None  # type: ignore[assignment]
    return module


def load_nameless(ranks: Ranks) -> str:
    with pytest.raises(RankFailure) as caught:
        loaded_together(ranks, make_without_name)
    return str(caught.value)


def test_a_module_that_cannot_be_handed_over_is_refused_by_all(gang: Gang) -> None:
    said = gang.run(load_nameless, Degrees(ulysses=2))
    assert said[0] == said[1] and "cannot share memory for weights (" in said[0] and "lambda" in said[0]


def gguf_file(folder: Path) -> Config:
    model = write_tiny_checkpoint(folder / "wan", num_heads=8)
    tensors = WanTransformer3DModel.from_pretrained(model / "transformer").state_dict()
    file, _ = write_gguf(original_wan(tensors), folder / "model-Q8_0.gguf")
    return tiny_config(f"model.path={model}", f"model.single_files={{transformer: {file}}}")


def numbers(part: Tensor) -> Tensor:
    """Without diffusers' type, of which every operation's result is again."""
    return part.as_tensor() if isinstance(part, GGUFParameter) else part.data


def load_gguf(ranks: Ranks, config: Config) -> tuple[Any, bool, list[tuple[str, Any]]]:
    def load() -> Any:
        return load_transformer(config, CPU, WanTransformer3DModel)

    with one_machine(ranks), node_group(ranks) as group:
        assert group is not None
        module, (row,) = NodeCopies(group).load(load, whole)
        inside = range(row.data_ptr(), row.data_ptr() + row.nbytes)
        parts = list(module.parameters())
        kinds = [(type(part).__name__, getattr(part, "quant_type", None)) for part in parts]
        plain = [numbers(part).clone() for part in parts]
        return plain, all(part.data_ptr() in inside for part in parts), kinds


def test_gguf_weights_are_shared_with_their_types(gang: Gang, tmp_path: Path) -> None:
    config = gguf_file(tmp_path)
    (first, inside, kinds), (second, also_inside, other_kinds) = gang.run(load_gguf, Degrees(ulysses=2), config)
    expected = list(load_transformer(config, CPU, WanTransformer3DModel).parameters())
    assert inside and also_inside and kinds == other_kinds
    assert kinds == [(type(part).__name__, getattr(part, "quant_type", None)) for part in expected]
    assert "GGUFParameter" in {name for name, _ in kinds}
    for parts in (first, second):
        assert all(torch.equal(a, numbers(b)) for a, b in zip(parts, expected, strict=True))


def closed(path: str, nbytes: int) -> tuple[None, str]:
    return None, "Permission denied"


def share_bytes(ranks: Ranks) -> tuple[list[int], int, bool, bool]:
    with one_machine(ranks), node_group(ranks) as group, first_ranks_group(ranks) as firsts:
        assert group is not None
        memory = shared_memory.share_memory(16 if ranks.rank == 0 else None, group)
        memory[ranks.rank] = 7
        dist.barrier()
        seen, left = memory.tolist(), open_descriptors()
        dist.barrier()
        with mock.patch.object(shared_memory, "_open", closed) if ranks.rank == 1 else ExitStack():
            shared = shared_memory.can_share(group)
        return seen, left, shared, firsts is not None and dist.get_world_size(firsts) == 2


def test_all_ranks_see_the_same_bytes(gang: Gang) -> None:
    for degrees, firsts in ((Degrees(data=2), [True, True]), (Degrees(data=2, ulysses=2), [True, False, True, False])):
        results = gang.run(share_bytes, degrees)
        ones = [7] * degrees.world_size + [0] * (16 - degrees.world_size)
        assert [seen for seen, *_ in results] == [ones] * degrees.world_size
        assert all(left == 0 and not shared for _, left, shared, _ in results)
        assert [with_firsts for *_, with_firsts in results] == firsts
