"""The words for the stages of a run."""

from launch.process.printable import printable

_LONGEST = 200  # characters: a sweep names a stage after a curve, whose name is the user's

_STAGES = {
    "start": "starting",
    "join": "joining ranks",
    "load": "loading weights",
    "peak": "measuring the device's peak",
    "encode": "encoding prompt",
    "denoise": "denoising",
    "decode": "decoding video",
    "write": "writing files",
    "room": "waiting for room",
    "trace": "tracing one more video",
    "refine": "trying lists of steps",
    "wait": "waiting for other replicas",
}


def stage_in_words(phase: str) -> str:
    """The words for a stage, or for a phase of it such as "denoise step 3"."""
    return _STAGES.get(phase.partition(" ")[0]) or printable(phase, _LONGEST)
