"""Ranks of one machine that load the same weights read each file once."""

import os
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from engine.components.transformer import load_transformer
from engine.errors import RankFailure
from parallel import slices
from parallel.degrees import Degrees
from parallel.node import node_group, values_of
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.small_model import tiny_config


def load_counted(ranks: Ranks, together: bool) -> tuple[dict[str, Tensor], list[str], list[int]]:
    """The weights, the files that this rank has opened for their contents, and who was in its group."""
    opened: list[str] = []

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(f"{file} {kwargs.get('device', 'header')}")
        return safe_open(file, *args, **kwargs)

    safe_open = slices.safe_open
    here = {"LOCAL_WORLD_SIZE": str(ranks.degrees.world_size), "LOCAL_RANK": str(ranks.rank)}
    with mock.patch.dict(os.environ, here), mock.patch.object(slices, "safe_open", counted), node_group(ranks) as group:
        model = load_transformer(
            tiny_config("model.dtype=bfloat16"), ranks.device, WanTransformer3DModel, "transformer", True,
            group if together else None,
        )  # fmt: skip
        there = values_of(ranks.rank, group)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, opened, there


def test_each_file_is_read_once_a_machine_with_the_same_weights(gang: Gang) -> None:
    expected = load_transformer(tiny_config("model.dtype=bfloat16"), torch.device("cpu"), WanTransformer3DModel)
    by_each = gang.run(load_counted, Degrees(data=2), False)
    together = gang.run(load_counted, Degrees(data=2), True)
    for weights, _, there in (*by_each, *together):
        assert there == [0, 1]
        assert weights.keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert weights[name].dtype == tensor.dtype and torch.equal(weights[name], tensor)
    reads = [[file for file in opened if file.endswith("cpu")] for _, opened, _ in (*by_each, *together)]
    assert [len(files) for files in reads] == [1, 1, 1, 0]
    assert not together[1][1], "not even a header"


def load_damaged(ranks: Ranks) -> str:
    def damaged(*args: Any) -> Any:
        raise ValueError("the tensor blocks.0 is missing")

    with mock.patch.object(slices, "_find", damaged), pytest.raises(RankFailure) as caught:
        load_counted(ranks, True)
    return str(caught.value)


def test_a_damaged_file_is_named_by_every_rank(gang: Gang) -> None:
    said = gang.run(load_damaged, Degrees(ulysses=2))
    assert said[0] == said[1] and "blocks.0 is missing" in said[0]
