"""Which device each thread uses, and what is said where the devices of a video differ. No CUDA device is needed."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoints.writer import CheckpointWriter
from engine.execution import devices
from engine.execution.devices import mixed_devices_note
from engine.storage.waiting import Waiting
from parallel.degrees import Degrees
from parallel.ranks import Ranks

CARD_3 = torch.device("cuda", 3)


def test_the_thread_that_writes_checkpoints_uses_the_card_of_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for an event of CUDA, which would open the first card, and take memory there from another rank."""
    used: list[tuple[Any, str]] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: used.append((device, threading.current_thread().name)))
    writer = CheckpointWriter([tmp_path], {}, Waiting(Ranks(device=CARD_3)))
    assert writer._thread.submit(lambda: len(used)).result() == 1, "before it does anything"
    ((device, thread),) = used
    assert device == CARD_3 and thread.startswith("checkpoint")
    writer.close()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([("H100", "9.0")] * 4, None),
        (
            [("H100 SXM", "9.0"), ("H100 SXM", "9.0"), ("H100 PCIe", "9.0"), ("H100 SXM", "9.0")],
            "the GPUs of a video differ (H100 SXM on rank 4, 5, 7, H100 PCIe on rank 6): the slowest sets the pace",
        ),
        (
            [("H100", "9.0"), ("A100", "8.0"), ("A100", "8.0"), ("A100", "8.0")],
            "the GPUs of a video differ (H100 on rank 4, A100 on rank 5, 6, 7): the slowest sets the pace, and their "
            "latents may drift apart by rounding: runtime.audit=true ends the run where they do",
        ),
    ],
)
def test_cards_of_a_video_that_differ_are_named(
    found: list[tuple[str, str]], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, capability = found[1]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(map(int, capability.split("."))))

    def gather(own: tuple[str, str], ranks: Ranks) -> list[tuple[str, str]]:
        assert own == found[1]
        return found

    monkeypatch.setattr(devices, "objects_of_all", gather)
    assert mixed_devices_note(Ranks(Degrees(data=2, ulysses=4), 5, CARD_3)) == words


def test_ranks_on_the_cpu_are_not_compared() -> None:
    assert mixed_devices_note(Ranks(Degrees(ulysses=4), 1)) is None
