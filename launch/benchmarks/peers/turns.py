"""All methods by turns: prompt by prompt, in one process, with the plain pipeline before and after each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from launch.benchmarks.peers.contestant import BrokenOff, Contestant, Made
from launch.benchmarks.peers.counting import Work
from launch.benchmarks.peers.entries import Entry
from launch.sweep.metrics import psnr, ssim

Decode = Callable[[Tensor], Tensor]
"""Latents [1, channels, frames, height, width] to frames, uint8 [frames, height, width, 3]."""


@dataclass(frozen=True)
class Run:
    """One video of a method at one setting."""

    prompt: int
    round: int
    seconds: float
    ratio: float
    """Of ``seconds`` to those of the plain pipeline, the mean of its runs right before and after the method's."""
    work: Work
    psnr: float
    """Decibels, against the video without a cache of the same library, prompt and seed."""
    ssim: float


@dataclass
class Outcome:
    """What a method did."""

    entry: Entry
    runs: list[list[Run]]
    """Of each setting."""
    failed: str = ""
    """The error, if the library raised one: there are no more runs then."""
    keeps: dict[str, str] = field(default_factory=dict)
    """Of a video that is made after another one, finished or broken off, how it differs from a fresh one."""


After = Literal["finished", "broken off"]


class Turns:
    """Methods that take turns with the plain pipeline."""

    def __init__(
        self, plain: Contestant, methods: Sequence[tuple[Entry, Contestant]], references: Mapping[str, Contestant]
    ) -> None:
        """
        Args:
            references: of each library, what makes its videos without a cache.
        """
        self._plain = plain
        self._methods = list(methods)
        self._references = references
        self.outcomes = [Outcome(entry, [[] for _ in entry.settings]) for entry, _ in methods]
        self.uncached: dict[str, list[Made]] = {library: [] for library in references}
        """The videos without a cache of each library, one for each prompt that was begun."""

    def run(
        self,
        num_prompts: int,
        rounds: int,
        decode: Decode,
        say: Callable[[str], None],
        after_prompt: Callable[[], object] = lambda: None,
    ) -> None:
        """Run all of it.

        Args:
            after_prompt: called whenever :attr:`outcomes` has all runs of one more prompt, and in the end.
        """
        self._warm_up(say)
        for prompt in range(num_prompts):
            for library, reference in self._references.items():
                self.uncached[library].append(reference.make(prompt))
            expected = {library: decode(made[prompt].latents) for library, made in self.uncached.items()}
            for round_ in range(rounds):
                say(f"prompt {prompt + 1} of {num_prompts}, round {round_ + 1} of {rounds}")
                self._round(prompt, round_, decode, expected)
            after_prompt()
        say("what is kept from one video to the next")
        for (_, contestant), outcome in zip(self._methods, self.outcomes, strict=True):
            if not outcome.failed:
                outcome.keeps = keeps(contestant, outcome.entry.settings[-1], num_prompts)
        after_prompt()

    def _warm_up(self, say: Callable[[str], None]) -> None:
        """One video of each method: the first ones of a process are slow, and a library may refuse the model."""
        say("warming up")
        self._plain.make(0)
        for (entry, contestant), outcome in zip(self._methods, self.outcomes, strict=True):
            outcome.failed = _attempt(contestant, entry.settings[0])
            if outcome.failed:
                say(f"  {entry.library} {entry.name} fails: {outcome.failed}")

    def _round(self, prompt: int, round_: int, decode: Decode, expected: Mapping[str, Tensor]) -> None:
        """One video of each setting of each method. The order changes from round to round."""
        order = [index for index, outcome in enumerate(self.outcomes) if not outcome.failed]
        first = (prompt + round_) % max(len(order), 1)
        before = self._plain.make(prompt).seconds
        for index in order[first:] + order[:first]:
            entry, contestant = self._methods[index]
            made = []
            for setting in entry.settings:
                contestant.set_up(setting)
                made.append(contestant.make(prompt))
            after = self._plain.make(prompt).seconds
            for runs, video in zip(self.outcomes[index].runs, made, strict=True):
                ratio = video.seconds / ((before + after) / 2)
                frames, uncached = decode(video.latents), expected[entry.library]
                quality = psnr(frames, uncached), ssim(frames, uncached)
                runs.append(Run(prompt, round_, video.seconds, ratio, video.work, *quality))
            before = after


def keeps(contestant: Contestant, setting: Mapping[str, Any], num_prompts: int) -> dict[str, str]:
    """What a method keeps of one video when it makes the next, with no more resetting than it does by itself.

    Returns:
        For a video after one that was finished, and after one that was broken off half-way: "" if it equals a fresh one
        in every bit, else how it differs.
    """
    contestant.set_up(setting)
    fresh = contestant.make(num_prompts - 1).latents
    return {when: _after(contestant, setting, num_prompts - 1, when, fresh) for when in ("finished", "broken off")}


def _after(contestant: Contestant, setting: Mapping[str, Any], prompt: int, when: After, fresh: Tensor) -> str:
    contestant.set_up(setting)
    try:
        try:
            contestant.make(0, break_off=when == "broken off")
        except BrokenOff:
            pass
        second = contestant.make(prompt).latents
    except Exception as error:  # any error of a library is what we want to know
        return _in_words(error)
    if torch.equal(second, fresh):
        return ""
    return f"latents differ by {(second - fresh).abs().max() / fresh.abs().max():.1%} of the largest"


def _attempt(contestant: Contestant, setting: Mapping[str, Any]) -> str:
    """The error that a library raises for its first video, in words; "" if there is none."""
    try:
        contestant.set_up(setting)
        contestant.make(0)
    except Exception as error:  # any error of a library is its row in the table
        return _in_words(error)
    return ""


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
