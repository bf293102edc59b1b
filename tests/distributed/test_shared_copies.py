"""One copy of weights in the host's memory for all ranks of a machine."""

import gc
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from engine.config import Config
from engine.config_file import load_config
from engine.cost.host import Copies
from engine.cost.job import job_of
from engine.engine import Engine
from engine.errors import MachineUnfit, RankFailure
from engine.execution import homes
from engine.execution.loaded import load_model
from engine.models.catalog import CATALOG
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import make_request
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.host_weights import just_enough
from tests.support.offloading import other_memory, write_two_experts
from tests.support.one_machine import NAME, holders, names_in_shm, one_machine, open_descriptors
from tests.support.pictures import write_pictures
from tests.support.slow import all_slow_but
from tests.support.small_model import CONFIG, PROMPT, tiny_config
from tests.support.tiny_models import TINY_MODELS

SMALL = ("sampling.frames=5", "sampling.height=48", "sampling.width=112", "sampling.steps=6", "sampling.shift=8")


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_experts(tmp_path_factory.mktemp("experts"))


@contextmanager
def room_for(copies: Copies, config: Config, ranks: Ranks) -> Iterator[None]:
    """The ranks have weights in the host's memory, and the machine has just room for such copies of them."""
    size = just_enough(config, ranks.degrees, copies)
    with other_memory(), mock.patch.object(homes, "host_bytes", lambda: size), one_machine(ranks):
        yield


def shared_pages() -> tuple[set[str], int, int]:
    """Of this process: the identities of the memory that ranks share, the bytes of it that it sees, and its proportion
    of them, in which a page of two processes counts half for each."""
    found: set[str] = set()
    resident = proportional = 0
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            if is_ours := NAME in line:
                found.add(line.split()[4])
        elif is_ours and line.startswith("Rss:"):
            resident += int(line.split()[1]) << 10
        elif is_ours and line.startswith("Pss:"):
            proportional += int(line.split()[1]) << 10
    return found, resident, proportional


def generate_with(copies: Copies, ranks: Ranks, config: Config, images: tuple[Path, ...] = ()) -> tuple[Any, ...]:
    """Latents; the shared memory; descriptors of it that are left; and where the weights are."""
    with room_for(copies, config, ranks):
        model = load_model(config, ranks)
        descriptors = open_descriptors()
        request = make_request([PROMPT], "", 3, config.sampling, *images)
        latents = Engine(model, Progress()).generate(request).latents
        dist.barrier()  # nobody has ended yet
        pages = shared_pages()
        dist.barrier()
        return latents, pages, descriptors


def run_both(ranks: Ranks, config: Config, images: tuple[Path, ...] = ()) -> tuple[Any, ...]:
    gc.collect()  # what another test has left to these processes
    own, (found, *_), _ = generate_with("own", ranks, config, images)
    assert not found
    latents, pages, descriptors = generate_with("shared", ranks, config, images)
    assert torch.equal(latents, own), "the same bits"
    gc.collect()
    assert not shared_pages()[0], "the memory is free when the model is"
    return (*pages, descriptors)


def held_bytes(config: Config, degrees: Degrees) -> int:
    """What the memory check counts for one copy, without those of the VAE, of which each rank has its own."""
    job = job_of(config, read_facts(config.model.path), degrees, on_card=True)
    memory = job.memory(24e9)
    return memory.host(degrees.world_size, degrees.data, shared=True) - degrees.world_size * memory.vae


@pytest.mark.parametrize("offload", ["experts", "blocks"])
def test_two_ranks_share_one_copy(gang: Gang, two_experts: Path, offload: str) -> None:
    config = tiny_config(f"model.path={two_experts}", *SMALL, "cache.threshold=0.3", f"runtime.offload={offload}")
    degrees = Degrees(cfg=2)
    (first, resident, proportional, left), (second, *_) = gang.run(run_both, degrees, config)
    assert first == second and len(first) == 2, "the same memory, one for each expert; one rank alone encodes"
    assert proportional == pytest.approx(resident / 2, rel=0.02), "each page is of both"
    text = load_model(config, Ranks()).text_encoder._pipeline.text_encoder  # type: ignore[union-attr]
    encoder = sum(parameter.nbytes for parameter in text.parameters())
    assert resident == pytest.approx(held_bytes(config, degrees) - encoder, rel=0.15), "which the memory check counts"
    assert left == 0


@pytest.mark.parametrize(
    ("degrees", "shared"),
    [(Degrees(data=2), 3), pytest.param(Degrees(data=2, ulysses=2), 3, marks=pytest.mark.slow)],
    ids=str,
)
def test_replicas_share_their_encoders(gang: Gang, two_experts: Path, degrees: Degrees, shared: int) -> None:
    config = tiny_config(f"model.path={two_experts}", *SMALL, "runtime.offload=experts", "cache.method=none")
    results = gang.run(run_both, degrees, config)
    firsts = [found for rank, (found, *_) in enumerate(results) if rank % degrees.replica_size == 0]
    assert len(firsts[0]) == shared and all(found == firsts[0] for found in firsts), "two experts and an encoder"
    assert all(found <= firsts[0] for found, *_ in results)


FAMILIES = ["Wan 2.1 I2V 14B 480P", "HunyuanVideo", "HunyuanVideo I2V", "HunyuanVideo 1.5 I2V 480p"]


@pytest.mark.parametrize("name", all_slow_but(FAMILIES[1:2], FAMILIES))
def test_every_family_shares_its_copies(gang: Gang, name: str, tmp_path: Path) -> None:
    tiny, recipe = TINY_MODELS[name], next(model.recipe for model in CATALOG if model.name == name)
    overrides = (*tiny.overrides(tiny.write(tmp_path / "model")), "sampling.steps=2", "runtime.offload=blocks")
    config = load_config(CONFIG.parent / recipe, (*overrides, "cache.method=none"))
    images = tuple(write_pictures(tmp_path)[: tiny.images])
    (first, *_), (second, *_) = gang.run(run_both, Degrees(data=2), config, images)
    assert first == second and len(first) >= 2


def load_shared(ranks: Ranks, config: Config, error: type[Exception], *faults: Any) -> str:
    with ExitStack() as stack:
        stack.enter_context(room_for("shared", config, ranks))
        for rank, target, replacement in faults:
            if ranks.rank in rank:
                stack.enter_context(mock.patch(target, replacement))
        with pytest.raises(error) as caught:
            load_model(config, ranks)
    return str(caught.value)


def damaged(*args: Any, **kwargs: Any) -> Any:
    raise RankFailure("The transformer cannot be loaded (damaged): check the model folder.")


def unwanted(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("weights are read")


def closed(path: str, nbytes: int) -> tuple[None, str]:
    return None, "Permission denied"


def test_what_the_first_rank_cannot_load_is_said_by_all(gang: Gang, two_experts: Path) -> None:
    config = tiny_config(f"model.path={two_experts}", "runtime.offload=experts")
    faults = ([0], "engine.execution.loaded.load_transformer", damaged)
    said = gang.run(load_shared, Degrees(cfg=2), config, RankFailure, faults)
    assert said[0] == said[1] and "(damaged)" in said[0]


def test_ranks_that_cannot_share_are_refused_before_weights_are_read(gang: Gang, two_experts: Path) -> None:
    config = tiny_config(f"model.path={two_experts}", "runtime.offload=experts")
    faults = [
        ([1], "parallel.shared_memory._open", closed),
        ([0, 1], "engine.execution.loaded.load_transformer", unwanted),
    ]
    said = gang.run(load_shared, Degrees(cfg=2), config, MachineUnfit, *faults)
    assert said[0] == said[1] and "they cannot share memory" in said[0] and said[0].count(". ") == 0


def kill_half_way(ranks: Ranks, config: Config) -> None:
    """All have the memory, and the first rank has begun to fill it."""
    from engine.components import node_copies

    class Dies(node_copies.WeightRow):
        def point_to(self, row: Tensor, fill: bool = False) -> None:
            row.fill_(1)
            os.kill(os.getpid(), signal.SIGKILL)

    with room_for("shared", config, ranks), mock.patch.object(node_copies, "WeightRow", Dies):
        load_model(config, ranks)


def test_ranks_that_are_killed_leave_nothing_behind(gang: Gang, two_experts: Path) -> None:
    config = tiny_config(f"model.path={two_experts}", "runtime.offload=experts")
    before = names_in_shm()
    outcomes = gang.outcomes(kill_half_way, Degrees(cfg=2), config)
    assert outcomes[0].error == "died" and outcomes[1].error
    assert names_in_shm() <= before and not holders(Path.cwd())
