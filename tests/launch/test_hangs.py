"""Whose fault a hang is: stacks as ranks over gloo and over NCCL show them, and the verdicts of those who see them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from engine.progress import Progress
from launch.gang.monitor import GangFailure, Monitor
from launch.process.hangs import RankState, find_hung, gets_on, somebody_waits, stack_of, waits
from launch.ranks.hang_watch import describe_hang
from parallel.degrees import Degrees

LOOP = "/x/engine/denoise/loop.py:40 denoise: prediction = step(latents)"
AGREES = [LOOP, "/x/parallel/agreement.py:100 agree: rows = self._gather(own_row).tolist()"]
GATHERS = [
    LOOP,
    "/x/parallel/agreement.py:118 _gather: dist.all_gather_single(rows, own_row, group=group)",
    "/t/torch/distributed/c10d_logger.py:81 wrapper: return func(*args, **kwargs)",
    "/t/torch/distributed/distributed_c10d.py:4120 all_gather_single: work.wait()",
]
EXCHANGES = [
    LOOP,
    "/t/torch/distributed/_functional_collectives.py:150 wait_tensor: return torch.ops._c10d.wait_tensor(tensor)",
    "/t/torch/_ops.py:1255 __call__: return self._op(*args, **kwargs)",
]
SYNCHRONISES = [LOOP, "/t/torch/cuda/__init__.py:1108 synchronize: return torch._C._cuda_synchronize()"]
AWAITS_EVENT = [LOOP, "/t/torch/cuda/streams.py:231 synchronize: super().synchronize()"]
COPIES = [LOOP, "/x/engine/components/wan/autoencoder.py:64 decode: yield frames.contiguous().cpu()"]
COUNTS = [LOOP, "/x/parallel/worklist.py:92 _take: return int(item)"]
COMPUTES = [LOOP, "/t/torch/nn/modules/linear.py:134 forward: return F.linear(input, self.weight, self.bias)"]
SLEEPS = [*AGREES, "/x/dicache/gate.py:12 vote: time.sleep(1)"]


@pytest.mark.parametrize("stack", [AGREES, GATHERS, EXCHANGES, SYNCHRONISES, AWAITS_EVENT, COPIES, COUNTS])
def test_a_rank_that_waits_for_others_or_for_its_gpu(stack: list[str]) -> None:
    assert waits(stack)


@pytest.mark.parametrize("stack", [COMPUTES, SLEEPS, []])
def test_a_rank_that_is_busy_or_silent_does_not(stack: list[str]) -> None:
    assert not waits(stack)


def test_the_stack_of_this_thread_says_what_it_does() -> None:
    import threading

    *_, here, _inside = stack_of(threading.get_ident())
    assert here.endswith("*_, here, _inside = stack_of(threading.get_ident())") and "test_hangs.py:" in here


def state(stack: Sequence[str], begun: int | None = None, idle_seconds: float = 9.0) -> RankState:
    return RankState("denoise step 7", idle_seconds, stack, begun)


@pytest.mark.parametrize(
    ("states", "hung"),
    [
        ([state(AGREES), state(COMPUTES), state(GATHERS)], 1),
        ([state(AGREES, 70), state([], None), state(COMPUTES, 69)], 1),  # frozen: it does not even answer
        # over NCCL a rank that waits may have launched work until its queue was full, and look busy
        ([state(COMPUTES, 75), state(AGREES, 70), state(COMPUTES, 75)], 1),
        ([state(SYNCHRONISES, 70), state(COMPUTES, 70)], 1),
        ([state(AGREES, 70, 9.0), state(AGREES, 70, 11.0), state(AGREES, 70, 9.0)], 1),
    ],
)
def test_the_verdict(states: list[RankState], hung: int) -> None:
    assert find_hung(dict(enumerate(states))) == hung
    assert describe_hang(dict(enumerate(states))).rank == hung


def test_ranks_that_are_all_busy_are_let_be() -> None:
    assert not somebody_waits({0: state(COMPUTES, 5), 1: state(COMPUTES, 5)})
    assert somebody_waits({0: state(COMPUTES, 5), 1: state(GATHERS, 5)})
    assert somebody_waits({0: state(COMPUTES, 5), 1: state(COMPUTES, 6)})


def test_what_is_said_of_a_hang() -> None:
    states = {0: state(AGREES), 1: state(COMPUTES, None, 8.0)}
    assert str(describe_hang(states)) == (
        "rank 1 failed in denoise step 7: it has not got on for 8 s, and others wait for it: it is in "
        "modules/linear.py:134, forward"
    )
    frozen = {0: state(AGREES), 1: state([], None, 0.0)}
    assert "its process does not answer, and others have waited for it for 9 s" in str(describe_hang(frozen))
    assert "rank 0\n  /x/engine/denoise/loop.py:40" in describe_hang(states).traceback


LIMITS = SimpleNamespace(step_timeout_seconds=5.0, load_timeout_seconds=5.0)


def monitor_of(replica_size: int, patch: pytest.MonkeyPatch, states: dict[int, RankState], **status: float) -> Monitor:
    """The driver's monitor of ranks that show these states, each with a status."""
    parallel = SimpleNamespace(degrees=Degrees(len(states) // replica_size, ulysses=replica_size))
    ray = SimpleNamespace(silence_timeout_seconds=60)
    config: Any = SimpleNamespace(runtime=LIMITS, ray=ray, parallel=parallel)
    bundles: Any = [f"node {letter}" for letter in "abcd"[: len(states)]]
    monitor = Monitor([None] * len(states), bundles, config, Progress(), ray_watch=None)  # type: ignore[arg-type]
    for rank in monitor._ranks:
        own = states[rank.rank]
        told = {"phase": own.phase, "idle_seconds": own.idle_seconds} | status
        rank.status = SimpleNamespace(**told)  # type: ignore[assignment]
    patch.setattr(monitor, "_state", lambda rank: states[rank.rank])
    return monitor


@pytest.mark.parametrize("stack", [AGREES, GATHERS, SYNCHRONISES])
def test_the_driver_of_a_gang_on_ray_names_the_rank_that_the_others_wait_for(
    stack: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = monitor_of(3, monkeypatch, {0: state(stack), 1: state(stack), 2: state(COMPUTES)}, idle_seconds=6.0)
    with pytest.raises(
        GangFailure, match="rank 2 failed in denoise step 7: it answers from node c, but has not got on"
    ):
        monitor._find_stuck([0, 1, 2])


def decoding(stack: Sequence[str], begun: int, idle_seconds: float) -> RankState:
    return RankState("decode of video 2", idle_seconds, stack, begun)


def test_a_rank_that_decodes_gets_on_as_long_as_it_shows_signs() -> None:
    assert gets_on(LIMITS, decoding(COMPUTES, 4, 4.0)) and not gets_on(LIMITS, decoding(COMPUTES, 4, 6.0))
    assert not gets_on(LIMITS, decoding([], 4, 0.0)), "it does not answer"
    assert not gets_on(LIMITS, state(COMPUTES, 4, 4.0)), "no step takes so long"


def test_the_driver_of_a_gang_on_ray_waits_for_a_rank_that_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, gets_on, stuck = decoding(GATHERS, 5, 6.0), decoding(COMPUTES, 4, 0.5), decoding(COMPUTES, 4, 6.0)
    monitor_of(2, monkeypatch, {0: waits, 1: gets_on})._find_stuck([0, 1])
    for states in ({0: waits, 1: gets_on, 2: waits, 3: stuck}, {0: gets_on, 1: gets_on, 2: waits, 3: stuck}):
        with pytest.raises(GangFailure, match="rank 3 failed in decode of video 2: it answers from node d"):
            monitor_of(2, monkeypatch, states)._find_stuck([0, 1, 2, 3])
