"""Faults that `lockstep check` has to find: each changes the engine of this process, and belongs to a line."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tests.support.machine_faults import Patch, broken_kernel, slow_card, slow_link, tf32, wrong_log_sum_exp


@dataclass(frozen=True)
class Fault:
    """line: that finds it. words: of which one is in its reason or figure. ranks: that it takes."""

    line: str
    install: Callable[[Patch], None]
    words: tuple[str, ...]
    ranks: int = 1


def _swapped_ranks(patch: Patch) -> None:
    """Each rank takes the other one's tokens."""
    from dataclasses import replace

    from engine.generation import denoising

    plan = denoising.plan_shards

    def swapped(num_tokens: int, ranks: Any) -> Any:
        shards = plan(num_tokens, ranks)
        return replace(shards, lengths=shards.lengths[::-1], rank=len(shards.lengths) - 1 - shards.rank)

    patch.setattr(denoising, "plan_shards", swapped)


def _decides_alone(patch: Patch) -> None:
    """The second rank weighs what all agreed on differently."""
    from dataclasses import replace

    from parallel.agreement import Agreement

    agree = Agreement.agree

    def alone(self: Agreement, **given: Any) -> Any:
        agreed = agree(self, **given)
        if os.environ.get("RANK") != "1":
            return agreed
        return replace(agreed, sums=tuple(total * (index + 1) for index, total in enumerate(agreed.sums)))

    patch.setattr(Agreement, "agree", alone)


def _no_agreement(patch: Patch) -> None:
    """Each rank hears only itself."""
    from parallel.agreement import Agreement

    gather = Agreement._gather

    def own_alone(self: Agreement, own_row: torch.Tensor) -> torch.Tensor:
        rows = gather(self, own_row)
        return own_row[None].expand(len(rows), -1).contiguous()

    patch.setattr(Agreement, "_gather", own_alone)


def _leaking_cache(patch: Patch) -> None:
    """What a request has left in its caches is where the next one begins."""
    from dicache.controller import Controller

    start, left = Controller.__init__, []

    def leaking(self: Controller, *given: Any, **others: Any) -> None:
        start(self, *given, **others)
        if left:
            self._caches = left[0]

    patch.setattr(Controller, "__init__", leaking)
    # not those that are made to check a configuration, whose settings are others
    patch.setattr(Controller, "release", lambda self: left.append(self._caches))


def _corrupted_weight(patch: Patch) -> None:
    """A bit of one number has flipped."""
    _change_weight(patch, lambda weight: weight.view(-1)[0].mul_(2.0**64))


def _not_a_number(patch: Patch) -> None:
    _change_weight(patch, lambda weight: weight.view(-1)[0].fill_(float("nan")))


def _change_weight(patch: Patch, change: Callable[[torch.Tensor], object]) -> None:
    from engine.execution import loaded

    load = loaded.load_transformer

    def changed(*given: Any, **others: Any) -> Any:
        transformer = load(*given, **others)
        with torch.no_grad():
            change(transformer.blocks[5].ffn.net[2].weight)
        return transformer

    patch.setattr(loaded, "load_transformer", changed)


def _resumed_wrongly(patch: Patch) -> None:
    """The cache is forgotten."""
    from dicache.controller import Controller

    patch.setattr(Controller, "restore", lambda self, snapshot: None)


def _no_checkpoints(patch: Patch) -> None:
    from engine.generation.denoising import Denoising

    patch.setattr(Denoising, "resume", lambda self: None)


def _held_memory(patch: Patch) -> None:
    """Every block's output is kept until the end of the step."""
    from engine.models.wan import WanAdapter

    blocks, kept = WanAdapter.blocks, []

    def keeping(self: WanAdapter, *given: Any) -> Any:
        activations = blocks(self, *given)
        kept.append([activations.hidden_states.repeat(4, 1, 1) for _ in range(4)])
        return activations

    patch.setattr(WanAdapter, "blocks", keeping)


def _stale_expert(patch: Patch) -> None:
    """The transformer that had the last turn of a request has all turns of the next one."""
    from dataclasses import replace

    from engine.generation.denoising import Denoising

    predictor, last = Denoising._predictor, [0]

    def stale(self: Any, number: int, *given: Any) -> Any:
        last[0] = max(last[0], number)
        if number < last[0]:
            self._model = replace(self._model, experts=(self._model.experts[last[0]],) * 2)
        return predictor(self, number, *given)

    patch.setattr(Denoising, "_predictor", stale)


def _one_expert(patch: Patch) -> None:
    """The first transformer takes all steps."""
    from engine.generation import denoising

    split = denoising.split_steps
    patch.setattr(denoising, "split_steps", lambda timesteps, boundary: [*split(timesteps, None), range(0)])


def _crash(patch: Patch) -> None:
    from launch.check.lines import copies

    patch.setattr(copies, "measure", lambda *given: os.kill(os.getpid(), 11))


def _endless(patch: Patch) -> None:
    from launch.check.lines import copies

    patch.setattr(copies, "measure", lambda *given: time.sleep(1000))


def _raises(patch: Patch) -> None:
    from launch.check.lines import copies

    def fail(*given: Any) -> Any:
        raise RuntimeError("the driver is\nlost")

    patch.setattr(copies, "measure", fail)


FAULTS = {
    "wrong log-sum-exp": Fault("attention kernels", wrong_log_sum_exp, ("log-sum-exp is off",)),
    "broken kernel": Fault("attention kernels", broken_kernel, ("output is off",)),
    "TF32 forced": Fault("float32 products", tf32, ("TF32",)),
    "TF32 in the model": Fault("small model", tf32, ("the latents are off", "another decision")),
    "corrupted weight": Fault("small model", _corrupted_weight, ("the latents are off",)),
    "NaN from a layer": Fault("small model", _not_a_number, ("not finite",)),
    "leaking cache": Fault("requests in a row", _leaking_cache, ("after another request",)),
    "held memory": Fault("large model's layers", _held_memory, ("GB are held",)),
    "resumed without its cache": Fault("killed and resumed", _resumed_wrongly, ("from those of a run",)),
    "no checkpoint found": Fault("killed and resumed", _no_checkpoints, ("began anew",)),
    "a transformer that stays": Fault("two experts", _stale_expert, ("after another request",)),
    "a transformer without a turn": Fault("two experts", _one_expert, ("had no turn",)),
    "raises": Fault("copies", _raises, ("RuntimeError: the driver is lost",)),
    "slow link": Fault("links", slow_link, ("above", "below"), 2),
    "slow card": Fault("cards alike", slow_card, ("rank 1 has",), 2),
    "swapped ranks": Fault("layout ulysses 2", _swapped_ranks, ("from those of one rank", "another decision"), 2),
    "swapped ranks of a ring": Fault("layout ring 2", _swapped_ranks, ("from those of one rank",), 2),
    "a rank that decides alone": Fault("layout cfg 2", _decides_alone, ("differ",), 2),
    "no agreement": Fault("layout cfg 2", _no_agreement, ("differ", "another decision", "tokens"), 2),
}
OTHERS = {"crash": Fault("copies", _crash, ("SIGSEGV",)), "endless": Fault("copies", _endless, ("did not end",))}
