"""The buffers: as few as the formulas need, overwritten in place, in the dtype of the model; and what is measured."""

import pytest
import torch

import dicache.arithmetic
from dicache.arithmetic import number
from dicache.config import CacheConfig
from dicache.controller import Controller, Observation
from dicache.evaluation import Source, evaluate
from dicache.methods import build_method
from dicache.sums import AbsoluteSum, Chunk, InnerSum, Operand, ProductSum, SquareSum
from dicache.trajectory import Ring, Trajectory
from tests.support.toy import COND, DIM, TOKENS, UNCOND, drive, inputs, largest_allocation, steps

TENSOR_BYTES = TOKENS * DIM * 4


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (CacheConfig(), 5),
        (CacheConfig(method="fbcache"), 2),
        (CacheConfig(method="interval"), 1),
        (CacheConfig(method="interval", estimator="taylor"), 2),
        (CacheConfig(method="none"), 0),
    ],
    ids=["dicache", "fbcache", "reuse", "taylor", "none"],
)
def test_bytes_are_those_of_the_fewest_buffers(config, tensors):
    run = drive(config)
    assert run.controllers[0].cache_bytes == 2 * tensors * TENSOR_BYTES
    assert drive(config, dtype=torch.bfloat16).controllers[0].cache_bytes == tensors * TENSOR_BYTES
    shares = [controller.cache_bytes for controller in drive(config, ranks=3).controllers]
    assert sum(shares) == 2 * tensors * TENSOR_BYTES
    assert max(shares) <= TENSOR_BYTES * tensors


def test_lanes_of_other_ranks_cost_nothing():
    controller = Controller(CacheConfig(), [COND, UNCOND], 4, 3)
    x = inputs(COND, steps(4)[0])
    controller.decide(steps(4)[0], {})
    controller.record(COND, controller.cached_segments[0], Observation(x, x), x, x)
    assert controller.cache_bytes == 3 * TENSOR_BYTES


def test_slots_are_overwritten_in_place():
    ring = Ring(2)
    tensors = [torch.full((2,), float(i)) for i in range(5)]
    addresses = set()
    for tensor in tensors:
        slot = ring.next_slot(tensor)
        slot.copy_(tensor)
        addresses.add(slot.data_ptr())
    assert len(addresses) == 2
    assert torch.equal(ring.newest(1), tensors[4]) and torch.equal(ring.newest(2), tensors[3])
    assert ring.nbytes == 16


def test_a_whole_tensor_is_kept_and_a_part_of_one_is_copied():
    ring = Ring(2)
    whole, part = torch.randn(1, 4, 3), torch.randn(1, 6, 3)[:, 2:]
    for tensor in (whole, part):
        ring.keep(tensor)
    assert ring.newest(2).data_ptr() == whole.data_ptr()
    assert ring.newest(1).data_ptr() != part.data_ptr() and torch.equal(ring.newest(1), part)
    assert ring.newest(1).untyped_storage().nbytes() == part.nbytes
    ring.keep(whole)
    assert len(ring.slots) == 2 and ring.nbytes == 2 * whole.nbytes


def test_buffers_do_not_alias_what_the_engine_passes():
    run = drive(CacheConfig(threshold=0.25))
    controller = Controller(CacheConfig(threshold=0.25), [COND, UNCOND], 20, 3)
    scribbled = drive(CacheConfig(), controllers=[_Scribbler(controller)])  # type: ignore[list-item]
    assert scribbled.decisions == run.decisions


class _Scribbler:
    """A controller whose caller overwrites every tensor but the probe as soon as a call has returned."""

    def __init__(self, controller):
        self._controller = controller

    def __getattr__(self, name):
        return getattr(self._controller, name)

    def record(self, lane, segment, shown, entering, leaving):
        x, *rest = copies = [tensor.clone() for tensor in (shown.x, entering, leaving)]
        self._controller.record(lane, segment, Observation(x, shown.probe), *rest)
        for tensor in copies:
            tensor.fill_(1e9)

    def estimate(self, lane, segment, shown, entering):
        x, entering = copies = [tensor.clone() for tensor in (shown.x, entering)]
        result = self._controller.estimate(lane, segment, Observation(x, shown.probe), entering)
        for tensor in copies:
            tensor.fill_(1e9)
        return result


def test_a_sum_over_computed_steps_is_measured_once():
    method = build_method(CacheConfig(), [COND], 20, range(20))
    trajectory = Trajectory(method.sums, 2, "input")
    x = [torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    for i in range(2):
        trajectory.record_computed(Observation(x[i], 2 * x[i]), 2 * x[i], 3 * x[i])
    settled = [term for term in method.sums if all(operand.is_settled for operand in term.operands)]
    assert len(settled) == 1
    first = trajectory.measure(method.sums, Observation(x[2], x[3]))
    counted = []
    watched = [_Watched(term, counted) for term in method.sums]
    # equal sums hash alike, so the trajectory takes the watched ones for those that it knows
    again = trajectory.measure(watched, Observation(x[2], x[3]))
    assert torch.equal(first, again)
    assert len(counted) == len(method.sums) - 1 and settled[0] not in counted
    trajectory.record_computed(Observation(x[2], x[3]), x[3], x[0])
    after = trajectory.measure(method.sums, Observation(x[2], x[3]))
    index = method.sums.index(settled[0])
    expected = ((x[3] - x[2]) - x[1]).double().abs().sum()
    assert after[index] == pytest.approx(expected.item(), rel=1e-6) != first[index].item()


class _Watched:
    def __init__(self, term, counted):
        self.term, self.counted, self.operands = term, counted, term.operands

    def __hash__(self):
        return hash(self.term)

    def __eq__(self, other):
        return self.term == (other.term if isinstance(other, _Watched) else other)

    def of(self, tensors):
        self.counted.append(self.term)
        return self.term.of(tensors)


def test_sums_equal_their_definition_whatever_the_chunks(monkeypatch):
    torch.manual_seed(0)
    probe, previous = torch.randn(2, 1, 37, 8).unbind()
    tensors = {Operand("probe", 0): probe, Operand("probe", 1): previous}
    sums = [AbsoluteSum(*tensors), AbsoluteSum(Operand("probe", 1))]
    expected = torch.stack([(probe.double() - previous.double()).abs().sum(), previous.double().abs().sum()])
    for elements in (1, 8, 80, 10_000):
        monkeypatch.setitem(dicache.arithmetic.CHUNK_ELEMENTS, "cpu", elements)
        got = evaluate(sums, lambda operand: Source(tensors[operand]), probe.device)
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_narrow_tensors_are_as_exact_as_their_rows(monkeypatch, dtype):
    """Each token's numbers are added up in float32, whatever the chunks, so that no cut of the sequence matters."""
    torch.manual_seed(0)
    tensors = {Operand("probe", age): torch.randn(1, 37, 64).to(dtype) for age in range(3)}
    a, b, c = tensors
    sums = [AbsoluteSum(a, b), AbsoluteSum(b), InnerSum((a, b), (b, c)), InnerSum((a, b), (a, b)), ProductSum(a, b)]
    sums.append(SquareSum(c))
    wide = Chunk({operand: tensor.double() for operand, tensor in tensors.items()}, number(-1.0, torch.device("cpu")))
    expected = torch.stack([term.of(wide).sum() for term in sums])
    found = []
    for elements in (1, 8, 80, 10_000):
        monkeypatch.setitem(dicache.arithmetic.CHUNK_ELEMENTS, "cpu", 64 * elements)
        found.append(evaluate(sums, lambda operand: Source(tensors[operand]), torch.device("cpu")))
    torch.testing.assert_close(found[0], expected, rtol=1e-7, atol=0)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-14, atol=0)


def test_a_narrow_operand_is_not_cut_by_the_width_of_another(monkeypatch):
    monkeypatch.setitem(dicache.arithmetic.CHUNK_ELEMENTS, "cpu", 64)
    tensors = {Operand("probe", 0): torch.ones(1, 16, 64), Operand("latents", 0): torch.ones(1, 16, 4)}
    cuts = []

    class Counted(AbsoluteSum):
        def of(self, chunk):
            cuts.append(chunk[self.a].shape[1])
            return super().of(chunk)

    got = evaluate([Counted(o) for o in tensors], lambda operand: Source(tensors[operand]), torch.device("cpu"))
    assert got.tolist() == [16 * 64, 16 * 4]
    assert cuts == [1] * 16 + [16]


def test_no_float64_copy_of_a_whole_tensor(monkeypatch):
    monkeypatch.setitem(dicache.arithmetic.CHUNK_ELEMENTS, "cpu", 3 * DIM)
    with largest_allocation() as largest:
        run = drive(CacheConfig(threshold=0.25), until=8)
    assert "s" in run.actions()
    assert largest[0] == 3 * DIM


def test_chunks_do_not_change_the_estimate(monkeypatch):
    whole = drive(CacheConfig(threshold=0.25))
    monkeypatch.setitem(dicache.arithmetic.CHUNK_ELEMENTS, "cpu", 2 * DIM)
    chunked = drive(CacheConfig(threshold=0.25))
    assert chunked.actions() == whole.actions()
    torch.testing.assert_close(chunked.outputs[-1], whole.outputs[-1], rtol=1e-6, atol=1e-6)


def test_small_changes_of_large_numbers_are_not_lost():
    """In float32 a sum over many tokens loses its last digits; in float64 it does not."""
    x = torch.full((1, 1 << 16, 4), 1.0)
    probe = x.clone()
    probe[0, 0, 0] += 2**-20
    operands = {Operand("probe", 0): probe, Operand("probe", 1): x}
    got = evaluate([AbsoluteSum(Operand("probe", 0))], lambda o: Source(operands[o]), x.device)
    assert got.item() == (1 << 18) + 2**-20


def test_a_rank_without_tokens_takes_part():
    controller = Controller(CacheConfig(warmup_ratio=0.0, threshold=100.0), [COND], 4, 3)
    empty = torch.empty(1, 0, DIM)
    for step in steps(4):
        shown, (segment,) = Observation(empty, empty), controller.cached_segments
        partial = controller.partial_sums(step, COND, shown)
        assert partial.tolist() == [0.0] * controller.num_sums(step, COND)
        plan = controller.decide(step, {COND: [0.0] * controller.num_sums(step, COND)})[COND]
        if plan.is_estimated:
            assert controller.estimate(COND, segment, shown, empty).shape == empty.shape
        else:
            controller.record(COND, segment, shown, empty, empty)
    assert controller.cache_bytes == 0


def test_bfloat16_estimates_are_rounded_once():
    trajectory = Trajectory((), 2, "input")
    x, y = (torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(i)).bfloat16() for i in (1, 2))
    zero = torch.zeros_like(x)
    trajectory.record_computed(Observation(zero, zero), zero, x)
    trajectory.record_computed(Observation(zero, zero), zero, y)
    result = trajectory.combine((1.7, -0.7), Observation(x, x), x)
    exact = x.double() + 1.7 * y.double() - 0.7 * x.double()
    assert result.dtype == torch.bfloat16

    def error(rounded):
        return (rounded.double() - exact).abs()

    assert (error(result) <= error(exact.bfloat16()) + 1e-6).all()
    added_up_in_bfloat16 = x.add(y, alpha=1.7).add(x, alpha=-0.7)
    assert error(added_up_in_bfloat16).mean() > 1.5 * error(result).mean()


def test_an_unchanged_probe_has_not_changed_in_bfloat16():
    """The residual kept is rounded to bf16; the fresh one must be rounded alike before they are compared."""
    run = drive(
        CacheConfig(method="fbcache", threshold=0.1),
        dtype=torch.bfloat16,
        source=lambda lane, step: inputs(lane, steps(20)[0]),
    )
    assert run.decisions[-1][COND].indicator == 0.0
