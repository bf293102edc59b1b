"""The oracle is a true forward of the model, and the controller takes its decisions, on a small random Wan."""

import copy

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanTransformer3DModel

from dicache.config import CacheConfig
from dicache.controller import Controller, Lane, Observation, Step
from tests.support.oracle import run_oracle

GUIDANCE, NUM_STEPS = 4.0, 16


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=10,
        freq_dim=32,
        ffn_dim=48,
        num_layers=4,
        rope_max_seq_len=32,
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(1)
    return {"latents": torch.randn(1, 4, 3, 6, 8), "cond": torch.randn(1, 7, 10), "uncond": torch.randn(1, 7, 10)}


def scheduler(name):
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


@pytest.mark.parametrize("name", ["unipc", "euler"])
@pytest.mark.parametrize("guided", [True, False])
def test_the_oracle_without_skips_is_diffusers_own_forward(transformer, case, name, guided):
    uncond = case["uncond"] if guided else None
    run = run_oracle(transformer, scheduler(name), case["latents"], case["cond"], uncond, GUIDANCE, 5, 0.0, 0.2, 1, 2.0)
    plain = scheduler(name)
    plain.set_timesteps(5)
    latents = case["latents"]
    for timestep in plain.timesteps:
        velocity = transformer(latents, timestep.expand(1), case["cond"]).sample
        if guided:
            unguided = transformer(latents, timestep.expand(1), uncond).sample
            velocity = unguided + GUIDANCE * (velocity - unguided)
        latents = plain.step(velocity, timestep, latents, return_dict=False)[0]
    torch.testing.assert_close(run.latents, latents, rtol=1e-5, atol=1e-5)
    assert [row.action for row in run.rows] == (
        ["warmup"] + ["compute"] * 4 if not guided else ["warmup"] * 2 + ["compute"] * 8
    )


class _Tap(torch.nn.Module):
    """Takes the place of all blocks: shows what goes in, and puts out what it is told to."""

    output = None

    def forward(self, hidden, *conditions):
        self.seen = hidden, conditions
        return hidden if self.output is None else self.output


class Pieces:
    """The embeddings and the head of diffusers' forward, by running it with other blocks."""

    def __init__(self, transformer):
        self.blocks = list(transformer.blocks)
        self._model = copy.copy(transformer)
        self._model._modules = dict(transformer._modules)
        self._model.blocks = torch.nn.ModuleList([_Tap()])

    def embed(self, *inputs):
        self._model.blocks[0].output = None
        self._model(*inputs)
        return self._model.blocks[0].seen

    def head(self, y, *inputs):
        self._model.blocks[0].output = y
        return self._model(*inputs).sample


def through_controller(transformer, plain, case, config):
    """The loop of an engine on one rank, over diffusers' blocks."""
    lanes = [Lane(0, branch) for branch in ("cond", "uncond")]
    model = Pieces(transformer)
    controller = Controller(config, lanes, NUM_STEPS, len(model.blocks))
    plain.set_timesteps(NUM_STEPS)
    latents, rows = case["latents"], []
    for index, timestep in enumerate(plain.timesteps):
        step = Step(index, float(plain.sigmas[index]), float(plain.sigmas[index + 1]))
        held, velocities = {}, {}
        for lane in lanes:
            x, conditions = model.embed(latents, timestep.expand(1), case[lane.branch])
            probe = x
            for block in model.blocks[: controller.probe_blocks]:
                probe = block(probe, *conditions)
            held[lane] = x, probe, conditions
        shown = {lane: Observation(x, probe) for lane, (x, probe, _) in held.items()}
        sums = {lane: controller.partial_sums(step, lane, shown[lane]).tolist() for lane in lanes}
        for lane, plan in controller.decide(step, sums).items():
            x, probe, conditions = held[lane]
            ((segment, decision),) = [(part.segment, part.decision) for part in plan]
            if decision.action == "skip":
                y = controller.estimate(lane, segment, shown[lane], probe)
            else:
                y = probe
                for block in model.blocks[segment.start : segment.stop]:
                    y = block(y, *conditions)
                controller.record(lane, segment, shown[lane], probe, y)
            velocities[lane.branch] = model.head(y, latents, timestep.expand(1), case[lane.branch])
            rows.append((index, lane.branch, decision))
        velocity = velocities["uncond"] + GUIDANCE * (velocities["cond"] - velocities["uncond"])
        latents = plain.step(velocity, timestep, latents, return_dict=False)[0]
    return rows, latents


@torch.no_grad()
@pytest.mark.parametrize(
    ("threshold", "warmup_ratio", "probe_depth", "gamma_max"),
    [(0.2, 0.2, 1, 2.0), (0.08, 0.1, 2, 1.5), (0.3, 0.0, 3, 1.2)],
)
def test_per_branch_decisions_are_the_oracles(transformer, case, threshold, warmup_ratio, probe_depth, gamma_max):
    oracle = run_oracle(
        transformer, scheduler("unipc"), **case, guidance=GUIDANCE, num_steps=NUM_STEPS, threshold=threshold,
        warmup_ratio=warmup_ratio, probe_depth=probe_depth, gamma_max=gamma_max,
    )  # fmt: skip
    config = CacheConfig(
        threshold=threshold,
        warmup_ratio=warmup_ratio,
        probe_depth=probe_depth,
        estimator={"gamma_max": gamma_max},
        decide="per_branch",
    )
    rows, latents = through_controller(transformer, scheduler("unipc"), case, config)
    assert {row.action for row in oracle.rows} >= {"compute", "skip"}
    assert sum(row.gamma is not None for row in oracle.rows) >= 2
    for row, (step, branch, decision) in zip(oracle.rows, rows, strict=True):
        assert (row.step, row.branch, row.action) == (step, branch, decision.action)
        for mine, theirs in ((decision.indicator, row.indicator), (decision.gamma, row.gamma)):
            assert mine == (None if theirs is None else pytest.approx(theirs, abs=1e-4))
    torch.testing.assert_close(latents, oracle.latents, rtol=1e-4, atol=1e-4)
