"""What MLPerf Inference prescribes for text-to-video, and where a run departs from it.

The numbers are those of the reference implementation and of the submission checker, versions 6.0 and 6.1
(github.com/mlcommons/inference, ``text_to_video/wan-2.2-t2v-a14b`` and ``tools/submission/submission_checker``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

from engine.config import SamplingConfig
from engine.models.facts import ModelFacts
from launch.jobs.config import JobConfig

MODEL = "wan-2.2-t2v-a14b"
"""The benchmark's name, in user.conf and for LoadGen."""
NEGATIVE_PROMPT = (
    "vivid colors, overexposed, static, blurry details, subtitles, style, work of art, painting, picture, still, "
    "overall grayish, worst quality, low quality, JPEG artifacts, ugly, deformed, extra fingers, poorly drawn hands, "
    "poorly drawn face, deformed, disfigured, deformed limbs, fused fingers, static image, cluttered background, three "
    "legs, many people in the background, walking backwards"
)
SEED = 42
STEPS, GUIDANCE, LOW_NOISE_GUIDANCE, BOUNDARY = 20, 4.0, 3.0, 0.875
HEIGHT, WIDTH, FRAMES, FPS = 720, 1280, 81, 16
PROMPTS = 248
FEWEST_QUERIES = 50
"""Of SingleStream; of Offline the fewest samples, and the fewest prompts in the performance set."""
VALID_QUERIES = 64
"""The fewest with which LoadGen estimates the 90th percentile at 99% confidence; with fewer it says INVALID."""
MIN_DURATION_SECONDS = 600
SEEDS = {
    "qsl_rng_seed": 2085463073848966840,
    "sample_index_rng_seed": 2747215439041700203,
    "schedule_rng_seed": 16159082839903944936,
}
"""Of LoadGen's random numbers, which each round of the standard has anew: those of 6.1."""
VBENCH_REFERENCE, VBENCH_LEAST = 70.48, 69.7752


class Scenario(StrEnum):
    """A scenario of the standard, as the command line names it."""

    SINGLE_STREAM = "singlestream"
    OFFLINE = "offline"

    @property
    def loadgen_name(self) -> str:
        """As LoadGen names it."""
        return "SingleStream" if self is Scenario.SINGLE_STREAM else "Offline"


def standard_sampling(given: SamplingConfig, facts: ModelFacts, overrides: Sequence[str]) -> SamplingConfig:
    """The standard's steps and guidance in the place of the configuration's; the size is the configuration's.

    Args:
        overrides: of ``--set``, which go before the standard.
    """
    kept = {override.partition("=")[0].strip() for override in overrides}
    if "sampling" in kept:
        return given
    values: dict[str, object] = {"steps": STEPS, "guidance": GUIDANCE}
    if facts.boundary_timestep is not None:
        values["low_noise_guidance"] = LOW_NOISE_GUIDANCE
    return given.model_copy(update={key: value for key, value in values.items() if f"sampling.{key}" not in kept})


def departures(
    config: JobConfig, facts: ModelFacts, scenario: Scenario, prompts: int, fixed_latent: bool
) -> Iterator[str]:
    """One line on everything in which a run is not the standard's.

    Args:
        prompts: how many there are.
        fixed_latent: whether a file with the latent was given.
    """
    sampling, mlperf = config.sampling, config.mlperf
    boundary = None if facts.boundary_timestep is None else facts.boundary_timestep / 1000
    wanted = {
        "boundary": (boundary, BOUNDARY),
        "sampling.height": (sampling.height, HEIGHT),
        "sampling.width": (sampling.width, WIDTH),
        "sampling.frames": (sampling.frames, FRAMES),
        "sampling.fps": (sampling.fps, FPS),
        "sampling.steps": (sampling.steps, STEPS),
        "sampling.guidance": (sampling.guidance, GUIDANCE),
        "sampling.low_noise_guidance": (sampling.low_noise_guidance, LOW_NOISE_GUIDANCE),
        "prompts": (prompts, PROMPTS),
    }
    for name, (value, standard) in wanted.items():
        if value != standard:
            yield f"{name} is {'none' if value is None else f'{value:g}'}, the standard's {standard:g}"
    if sampling.scheduler != "unipc":
        yield f"sampling.scheduler is {sampling.scheduler}, the standard's unipc"
    if facts.guidance_distilled:
        yield "the model takes no negative prompt"
    if not fixed_latent:
        yield f"the latent is drawn from seed {SEED}, the standard's is a file (--latent)"
    if mlperf.mode == "accuracy":
        return
    if mlperf.min_duration_seconds < MIN_DURATION_SECONDS:
        yield f"mlperf.min_duration_seconds is {mlperf.min_duration_seconds:g}, the standard's {MIN_DURATION_SECONDS}"
    fewest = FEWEST_QUERIES if scenario is Scenario.SINGLE_STREAM else PROMPTS
    if (queries := fewest_queries(config, scenario, prompts)) < fewest:
        kind = "queries" if scenario is Scenario.SINGLE_STREAM else "samples"
        yield f"the fewest {kind} are {queries}, the standard's {fewest}"


def fewest_queries(config: JobConfig, scenario: Scenario, prompts: int) -> int:
    """Queries of SingleStream or samples of Offline that a performance run makes at least."""
    if config.mlperf.queries is not None:
        return config.mlperf.queries
    return VALID_QUERIES if scenario is Scenario.SINGLE_STREAM else min(PROMPTS, prompts)
