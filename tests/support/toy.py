"""A toy transformer and the loop around a controller, so that tests see what the engine would see.

Ranks are simulated in one process: each has its own controller and its own tokens, and the sums are added up in rank
order. No ranks are started.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from dicache.config import CacheConfig
from dicache.controller import Controller, Decision, Lane, Observation, Plan, Step

COND, UNCOND = Lane(0, "cond"), Lane(0, "uncond")
NUM_BLOCKS = 3
TOKENS, DIM, LATENT_DIM = 13, 6, 4


def steps(num_steps: int) -> list[Step]:
    return [Step(i, 1 - i / num_steps, 1 - (i + 1) / num_steps) for i in range(num_steps)]


def block(hidden: Tensor, index: int) -> Tensor:
    """Works token by token, so that tokens can be split over ranks in any way."""
    weight = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(index)).to(hidden.dtype)
    return hidden + 0.5 * torch.tanh(hidden @ weight)


def inputs(lane: Lane, step: Step, dtype: torch.dtype = torch.float32) -> Tensor:
    """Block 0's input, [1, TOKENS, DIM]: a curve through space that differs from lane to lane."""
    seed = 100 * lane.sample + (lane.branch == "uncond")
    start, end, bend = torch.randn(3, 1, TOKENS, DIM, generator=torch.Generator().manual_seed(seed)).unbind()
    time = 1 - step.sigma
    speed = (1 if lane.branch == "cond" else 1.7) * (1 + 0.6 * lane.sample)
    return (start + speed * time * end + 0.3 * torch.sin(7 * time + bend)).to(dtype)


def head(hidden: Tensor) -> Tensor:
    """The velocity of each token, [1, tokens, LATENT_DIM]."""
    return torch.tanh(hidden[..., :LATENT_DIM]) - 0.3 * hidden[..., -LATENT_DIM:]


def signal(name: str, step: Step, x: Tensor, is_first: bool = True) -> Tensor:
    """What an engine would show besides the probe, of the tokens that ``x`` holds."""
    if name == "latents":
        return x[..., :LATENT_DIM].float()
    frequencies = torch.arange(1, DIM + 1) * (1 if name == "timestep_embedding" else 1.7)
    time = 2 + torch.sin(frequencies * step.sigma)[None, None]
    if name == "modulated_input":
        return x * time
    return time if is_first else time[:, :0]  # all tokens have it in common, so the first rank alone brings it


@dataclass
class Run:
    plans: list[dict[Lane, Plan]]
    outputs: list[dict[Lane, Tensor]]
    """Of all blocks, or velocities if the method estimates those; of all tokens, whichever rank held them."""
    controllers: list[Controller]

    @property
    def decisions(self) -> list[dict[Lane, Decision]]:
        """Of the one segment that a method with one has."""
        return [{lane: only(plan) for lane, plan in plans.items()} for plans in self.plans]

    def actions(self, lane: Lane = COND) -> str:
        """One letter a step: w, c or s."""
        return "".join(decisions[lane].action[0] for decisions in self.decisions)


def only(plan: Plan) -> Decision:
    """The decision of a plan with one segment that may be estimated."""
    (decision,) = plan.decisions
    return decision


def follow(controller: Controller, lane: Lane, plan: Plan, shown: Observation) -> Tensor:
    """Run or estimate the segments of a lane's plan, as the engine does; the output of all blocks, or the velocity if
    that is what the method estimates."""
    hidden = shown.probe
    for part in plan:
        segment = part.segment
        if part.is_estimated:
            hidden = controller.estimate(lane, segment, shown, hidden)
            continue
        entering = hidden
        for index in range(segment.start, segment.stop):
            hidden = block(hidden, index)
        if part.is_cached:
            controller.record(lane, segment, shown, entering, hidden)
        if segment.with_head:
            hidden = head(hidden)
    if controller.needs_velocity and not plan.is_estimated:
        controller.record_velocity(lane, shown, hidden if plan.parts[-1].segment.with_head else head(hidden))
    return hidden


def drive(
    config: CacheConfig,
    num_steps: int = 20,
    lanes: Sequence[Lane] = (COND, UNCOND),
    ranks: int = 1,
    until: int | None = None,
    span: range | None = None,
    controllers: list[Controller] | None = None,
    dtype: torch.dtype = torch.float32,
    source: Callable[[Lane, Step], Tensor] | None = None,
    tamper: Callable[[Step, Mapping[Lane, list[float]]], Mapping[Lane, list[float]]] | None = None,
    published: Sequence[str] = (),
) -> Run:
    """Run the toy transformer through one controller per simulated rank, from step 0 or over ``span``."""
    controllers = controllers or [
        Controller(config, lanes, num_steps, NUM_BLOCKS, span, published) for _ in range(ranks)
    ]
    run = Run([], [], controllers)
    for step in (steps(num_steps)[index] for index in span or range(num_steps)[:until]):
        shards = {}
        sums = {lane: [0.0] * controllers[0].num_sums(step, lane) for lane in lanes}
        for lane in lanes:
            x = source(lane, step).to(dtype) if source else inputs(lane, step, dtype)
            for rank, (controller, tokens) in enumerate(
                zip(controllers, x.tensor_split(len(controllers), dim=1), strict=True)
            ):
                probe = tokens
                for index in range(controller.probe_blocks):
                    probe = block(probe, index)
                shown = {name: signal(name, step, tokens, rank == 0) for name in controller.step_signals}
                shards[rank, lane] = Observation(tokens, probe, shown)
                partial = controller.partial_sums(step, lane, shards[rank, lane])
                assert partial.dtype == torch.float64
                sums[lane] = [a + b for a, b in zip(sums[lane], partial.tolist(), strict=True)]
        if tamper:
            sums = dict(tamper(step, sums))
        verdicts = [controller.decide(step, sums) for controller in controllers]
        assert all(verdict == verdicts[0] for verdict in verdicts)
        outputs: dict[Lane, list[Tensor]] = {lane: [] for lane in lanes}
        for (rank, lane), shown in shards.items():
            outputs[lane].append(follow(controllers[rank], lane, verdicts[rank][lane], shown))
        run.plans.append(verdicts[0])
        run.outputs.append({lane: torch.cat(parts, dim=1) for lane, parts in outputs.items()})
    return run


@contextmanager
def largest_allocation() -> Iterator[list[int]]:
    """Records the size in elements of the largest float64 tensor that an operation returns."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.dtype == torch.float64:
                largest[0] = max(largest[0], result.numel())
            return result

    with Watch():
        yield largest
