"""Comparing results: what is told apart on a noisy machine, and how often it cries wolf."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.errors import InvalidInput
from launch.bench.compare import compare, compare_against
from launch.bench.document import BenchDocument
from launch.bench.noise import WAITS_DRIFT, paired, separate
from tests.support.bench_documents import Machine, document

TRIALS = 500


def alarms(ratio: Callable[[np.random.Generator], object]) -> float:
    random = np.random.default_rng(7)
    found = [ratio(random) for _ in range(TRIALS)]
    return sum(each.low > 1 and each.ratio > 1.02 for each in found) / TRIALS  # type: ignore[attr-defined]


def times(random: np.random.Generator, drift: np.ndarray, noise: float, build: float = 1.0) -> np.ndarray:
    """Logarithms of times [rounds, 2] whose noise only ever makes them longer."""
    return np.log(build) + drift + np.array([0.0, 0.2]) + np.abs(random.normal(0, noise, (len(drift), 2)))


@pytest.mark.parametrize("rounds", [3, 6])
def test_two_runs_of_one_build_on_a_drifting_machine(rounds: int) -> None:
    """The drift between runs is twice that of the rounds, as was measured; the alarm is one-sided."""

    def ratio(random: np.random.Generator) -> object:
        a, b = (random.normal(0, 0.12) + random.normal(0, 0.06, (rounds, 1)) for _ in range(2))
        return separate(times(random, a, 0.02), times(random, b, 0.02))

    assert alarms(ratio) <= 0.015


@pytest.mark.parametrize(("noise", "sleep", "least", "most"), [(0.015, 0.0, 0.0, 0.015), (0.004, 0.05, 0.99, 1.0)])
def test_waits_of_two_runs_are_told_apart_whatever_the_speed(
    noise: float, sleep: float, least: float, most: float
) -> None:
    """With the noise of 1.5% that was measured with six processes to a core, and a calmer machine's."""

    def waits(random: np.random.Generator, share: float) -> np.ndarray:
        return np.log(1 + share + np.abs(random.normal(0, noise, (5, 1))))

    assert least <= alarms(lambda random: separate(waits(random, 0), waits(random, sleep), WAITS_DRIFT)) <= most


def test_two_runs_of_unlike_builds_on_a_calm_machine() -> None:
    def ratio(random: np.random.Generator) -> object:
        a, b = (random.normal(0, 0.004) + random.normal(0, 0.002, (5, 1)) for _ in range(2))
        return separate(times(random, a, 0.003), times(random, b, 0.003, 1.05))

    assert alarms(ratio) >= 0.99


@pytest.mark.parametrize(("build", "least", "most"), [(1.0, 0.0, 0.01), (1.05, 0.99, 1.0)])
def test_turns_in_one_run_do_not_see_the_drift(build: float, least: float, most: float) -> None:
    def ratio(random: np.random.Generator) -> object:
        drift = np.cumsum(random.normal(0, 0.1, (5, 1)), axis=0)
        return paired(times(random, drift, 0.01), times(random, drift, 0.01, build))

    assert least <= alarms(ratio) <= most


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    found = [paired(random.normal(0, 0.05, (8, 2)), random.normal(0.3, 0.05, (8, 2))) for _ in range(TRIALS)]
    assert sum(each is not None and each.low < np.exp(0.3) < each.high for each in found) / TRIALS >= 0.965


@pytest.mark.parametrize("rounds", [0, 1])
def test_one_round_tells_nothing_of_noise(rounds: int) -> None:
    assert separate(np.zeros((rounds, 3)), np.zeros((5, 3))) is None
    assert paired(np.zeros((rounds, 1)), np.zeros((rounds, 1))) is None


def runs(seed: int, sleep: float = 0.0, **changed: object) -> tuple[BenchDocument, BenchDocument]:
    machine = Machine(np.random.default_rng(seed), between_runs=0.12, between_rounds=0.06, noise=0.02, tracked=0.8)
    return document(machine.measured()), document(machine.measured(sleep=sleep, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(10))
def test_a_sleep_is_told_on_a_machine_whose_runs_differ_by_a_tenth(seed: int) -> None:
    slow = compare(*runs(seed, sleep=0.05))
    assert slow.is_slower and any(name.startswith("denoise") for name in slow.slower)
    assert not compare(*runs(seed)).is_slower


@pytest.mark.parametrize("seed", range(10))
def test_pauses_of_the_machine_hide_no_sleep_in_the_steps(seed: int) -> None:
    """A virtual machine that gets no processor looks as if the build waited; that is so in few of the steps."""
    random = np.random.default_rng(seed)

    def paused(found: BenchDocument) -> BenchDocument:
        for sample in found.samples:
            step, seconds = int(random.integers(len(sample.step_seconds))), float(random.exponential(0.2))
            for times in (sample.step_seconds, sample.step_idle_seconds):
                times[step] += seconds
            for stages in (sample.seconds, sample.idle_seconds):
                stages["denoise"] += seconds
                stages["total"] += seconds
        return found

    assert compare(*map(paused, runs(seed, sleep=0.05))).slower == ["a step with its waits, over without"]
    assert not compare(*map(paused, runs(seed))).is_slower


def test_what_waits_more_and_is_faster_in_all_has_won() -> None:
    machine = Machine(np.random.default_rng(0), between_rounds=0.002, noise=0.002)
    found = compare(document(machine.measured()), document(machine.measured(work=0.7, sleep=0.05)))
    rows = {row.name: row.verdict for row in found.rows}
    assert rows["denoise"] == "faster" and rows["denoise with its waits, over without"] == "slower"
    assert not found.is_slower and rows["videos an hour"] == "faster"


def test_a_wait_for_a_gpu_is_its_work() -> None:
    machine = Machine(np.random.default_rng(0), between_rounds=0.01, noise=0.001)
    a, b = (document(machine.measured(sleep=sleep, device="NVIDIA H100")) for sleep in (0.9, 0.95))
    assert not any("waits" in row.name for row in compare(a, b).rows)


def test_without_rounds_nothing_is_judged_and_that_is_said() -> None:
    machine = Machine(np.random.default_rng(0))
    found = compare(document(machine.measured(rounds=1)), document(machine.measured(rounds=1, work=3)))
    assert {row.verdict for row in found.rows if row.unit == "s"} == {"not judged"} and not found.is_slower
    assert any("--rounds" in note for note in found.notes)


def test_against_is_compared_pair_by_pair() -> None:
    machine = Machine(np.random.default_rng(0), between_rounds=0.3, noise=0.01)
    drift = machine.drift(5)
    given, reference = machine.measured(drift=drift, work=1.05), machine.measured(drift=drift)
    found = compare_against(document(given, against=reference))
    row = next(row for row in found.rows if row.name == "denoise")
    assert found.paired and row.verdict == "slower" and row.ratio == pytest.approx(1.05, abs=0.01)
    assert found.is_slower and not compare_against(document(given, against=reference), 0.2).is_slower
    with pytest.raises(InvalidInput, match="--against"):
        compare_against(document(given))


@pytest.mark.parametrize(
    ("key", "section", "value"), [("steps", "sampling", 9), ("height", "sampling", 32), ("path", "model", "/m/other")]
)
def test_other_work_is_refused(key: str, section: str, value: object) -> None:
    a, b = runs(0)
    b.made_with["config"][section][key] = value
    with pytest.raises(InvalidInput, match=r"differ.*: compare measurements of"):
        compare(a, b)


def test_what_else_differs_is_said() -> None:
    a, b = runs(0)
    b.made_with["config"]["cache"]["threshold"] = 0.2
    b.made_with["config"]["model"]["path"] = "/elsewhere/tiny_wan"
    b.made_with["versions"] = {"torch": "2.14", "diffusers": "0.42"}
    b.made_with["prompts"] = ["a blue square"]
    notes = "\n".join(compare(a, b).notes)
    assert "cache.threshold differs: 0.1 and 0.2." in notes and 'of torch differs: "2.13" and "2.14"' in notes
    assert "diffusers" in notes and "prompts differ" in notes and "model.path" not in notes


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf")])
def test_a_share_must_be_one(share: float) -> None:
    with pytest.raises(InvalidInput, match="--slower-by"):
        compare(*runs(0), share)


def test_ranks_and_rounds_may_differ_in_number() -> None:
    machine = Machine(np.random.default_rng(0), between_rounds=0.01, noise=0.01)
    found = compare(document(machine.measured(rounds=3)), document(machine.measured(rounds=6, ranks=2, prompts=2)))
    assert any("layout" in note for note in found.notes) and found.rows[0].ratio == pytest.approx(1, abs=0.05)
