"""The words for the stages of a run."""

_STAGES = {
    "start": "starting",
    "join": "joining ranks",
    "load": "loading weights",
    "encode": "encoding prompt",
    "denoise": "denoising",
    "decode": "decoding video",
    "write": "writing files",
    "refine": "trying lists of steps",
    "wait": "waiting for other replicas",
}


def stage_in_words(phase: str) -> str:
    """The words for a stage, or for a phase of it such as "denoise step 3"."""
    return _STAGES.get(phase.partition(" ")[0], phase)
