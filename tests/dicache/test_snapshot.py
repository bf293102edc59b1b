"""A controller that goes on from a snapshot decides and estimates as the one that was never broken off."""

from dataclasses import replace

import pytest
import torch

from dicache.config import CacheConfig
from dicache.controller import Controller, Snapshot
from tests.support.toy import COND, NUM_BLOCKS, UNCOND, drive

STEPS = 20
CONFIGS = {
    "dicache": CacheConfig(threshold=0.4),
    "per branch": CacheConfig(threshold=0.4, decide="per_branch", max_consecutive_skips=2),
    "fbcache": CacheConfig(method="fbcache", threshold=0.3),
    "interval": CacheConfig(method="interval", gate={"interval": 3}, estimator="taylor"),
    "teacache": CacheConfig(
        method="teacache",
        threshold=0.5,
        gate={"polynomial": (2.0, 0.5, 0.01), "signal": "timestep_embedding"},
        warmup_steps=3,
    ),
    "magcache": CacheConfig(method="magcache", gate={"ratios": (1.0, 0.98, 0.95)}, estimator="ridge"),
    "easycache": CacheConfig(method="easycache", threshold=0.4, warmup_steps=3),
    "taylorseer": CacheConfig(method="taylorseer", gate={"interval": 3}, estimator={"order": 2}),
    "foca": CacheConfig(method="foca", gate={"interval": 5}),
    "innovation": CacheConfig(gate="innovation", threshold=0.01, estimator="ridge"),
    "none": CacheConfig(method="none"),
}


def copied(snapshot: Snapshot) -> Snapshot:
    """As a file would give it back: tensors of its own."""
    tensors = {
        key: {kind: [tensor.clone() for tensor in kept] for kind, kept in kinds.items()}
        for key, kinds in snapshot.tensors.items()
    }
    return replace(snapshot, tensors=tensors)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_goes_on_alike(name: str, ranks: int) -> None:
    config = CONFIGS[name]
    whole = drive(config, STEPS, ranks=ranks)
    if name != "none":
        assert set("cs") <= set(whole.actions())
    for done in (1, 5, 6, 7, 13, 19):
        begun = drive(config, STEPS, ranks=ranks, until=done)
        snapshots = [copied(controller.snapshot()) for controller in begun.controllers]
        fresh = [Controller(config, (COND, UNCOND), STEPS, NUM_BLOCKS) for _ in range(ranks)]
        for controller, snapshot in zip(fresh, snapshots, strict=True):
            controller.restore(snapshot)
        resumed = drive(config, STEPS, ranks=ranks, span=range(done, STEPS), controllers=fresh)
        assert resumed.decisions == whole.decisions[done:]
        for expected, outputs in zip(whole.outputs[done:], resumed.outputs, strict=True):
            assert all(torch.equal(outputs[lane], expected[lane]) for lane in expected)


def test_a_snapshot_stays_as_it_was_while_the_controller_goes_on() -> None:
    run = drive(CONFIGS["dicache"], STEPS, until=8)
    snapshot = copied(run.controllers[0].snapshot())
    computed = len(snapshot.histories[COND, 0].computed)
    drive(CONFIGS["dicache"], STEPS, span=range(8, STEPS), controllers=run.controllers)
    assert len(snapshot.histories[COND, 0].computed) == computed


def test_a_snapshot_of_something_else_is_refused() -> None:
    snapshot = drive(CONFIGS["dicache"], STEPS, until=8).controllers[0].snapshot()
    with pytest.raises(ValueError, match="lanes"):
        Controller(CONFIGS["dicache"], (COND,), STEPS, NUM_BLOCKS).restore(snapshot)
    with pytest.raises(ValueError, match="keeps"):
        Controller(CONFIGS["dicache"], (COND, UNCOND), STEPS, NUM_BLOCKS).restore(
            Snapshot(snapshot.histories, {(COND, 0): {"momentum": [torch.zeros(1)]}})
        )
