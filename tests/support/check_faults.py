"""Faults that `lockstep check` has to find: each changes the engine of this process, and belongs to a line."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Patch(Protocol):
    """pytest's MonkeyPatch is one."""

    def setattr(self, target: Any, name: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Fault:
    """line: that finds it. words: of which one is in its reason or figure. ranks: that it takes."""

    line: str
    install: Callable[[Patch], None]
    words: tuple[str, ...]
    ranks: int = 1


def _wrong_log_sum_exp(patch: Patch) -> None:
    from parallel import kernel_calls

    kernel = kernel_calls.cpu_flash_attention()

    def wrong(*tensors: Any, **others: Any) -> Any:
        out, log_sum_exp, *rest = kernel(*tensors, **others)
        return (out, log_sum_exp + 0.01, *rest)

    patch.setattr(kernel_calls, "cpu_flash_attention", lambda: wrong)


def _broken_kernel(patch: Patch) -> None:
    """The last key of an odd length is left out."""
    from parallel import kernel_calls

    kernel = kernel_calls.cpu_flash_attention()

    def broken(query: Any, key: Any, value: Any, *others: Any) -> Any:
        kept = key.shape[2] - key.shape[2] % 2
        return kernel(query, key[:, :, :kept], value[:, :, :kept], *others)

    patch.setattr(kernel_calls, "cpu_flash_attention", lambda: broken)


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    """To 10 bits of mantissa, as TF32 has."""
    if tensor.dtype != torch.float32:
        return tensor
    return ((tensor.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _tf32(patch: Patch) -> None:
    linear, product = torch.nn.functional.linear, torch.Tensor.__matmul__
    patch.setattr(
        torch.nn.functional, "linear", lambda x, weight, bias=None: linear(_rounded(x), _rounded(weight), bias)
    )
    patch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(_rounded(a), _rounded(b)))


def _slow_link(patch: Patch) -> None:
    import torch.distributed as dist

    def slowed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_call(*arguments: Any, **others: Any) -> Any:
            time.sleep(0.1)
            return call(*arguments, **others)

        return wait_and_call

    for name in ("all_reduce", "all_to_all_single", "send"):
        patch.setattr(dist, name, slowed(getattr(dist, name)))


def _slow_card(patch: Patch) -> None:
    from engine.execution import peak

    measure = peak.measure_peak_flops
    share = 0.01 if os.environ.get("RANK") == "1" else 1.0
    patch.setattr(peak, "measure_peak_flops", lambda *given: share * measure(*given))


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
    "wrong log-sum-exp": Fault("attention kernels", _wrong_log_sum_exp, ("log-sum-exp is off",)),
    "broken kernel": Fault("attention kernels", _broken_kernel, ("output is off",)),
    "TF32 forced": Fault("float32 products", _tf32, ("TF32",)),
    "TF32 in the model": Fault("small model", _tf32, ("the latents are off", "another decision")),
    "corrupted weight": Fault("small model", _corrupted_weight, ("the latents are off",)),
    "NaN from a layer": Fault("small model", _not_a_number, ("not finite",)),
    "leaking cache": Fault("requests in a row", _leaking_cache, ("after another request",)),
    "held memory": Fault("large model's layers", _held_memory, ("GB are held",)),
    "resumed without its cache": Fault("killed and resumed", _resumed_wrongly, ("from those of a run",)),
    "no checkpoint found": Fault("killed and resumed", _no_checkpoints, ("began anew",)),
    "raises": Fault("copies", _raises, ("RuntimeError: the driver is lost",)),
    "slow link": Fault("links", _slow_link, ("above", "below"), 2),
    "slow card": Fault("cards alike", _slow_card, ("rank 1 has",), 2),
    "swapped ranks": Fault("layout ulysses 2", _swapped_ranks, ("from those of one rank", "another decision"), 2),
    "swapped ranks of a ring": Fault("layout ring 2", _swapped_ranks, ("from those of one rank",), 2),
    "a rank that decides alone": Fault("layout cfg 2", _decides_alone, ("differ",), 2),
    "no agreement": Fault("layout cfg 2", _no_agreement, ("differ", "another decision", "tokens"), 2),
}
OTHERS = {"crash": Fault("copies", _crash, ("SIGSEGV",)), "endless": Fault("copies", _endless, ("did not end",))}
