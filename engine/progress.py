"""The progress of a run, reported by the engine. The base class does nothing; ``launch`` displays it."""


class Progress:
    """Callbacks of the engine, called on every rank; the display decides which rank it shows.

    They are called in the thread that runs the engine, so they must return quickly.
    """

    @property
    def is_watched(self) -> bool:
        """Whether somebody ends the run if this rank does not get on: then ranks may wait for it as long as it does."""
        return False

    def video(self, index: int, count: int) -> None:
        """Video ``index`` (from 0) of a list of ``count`` begins."""

    def note(self, line: str) -> None:
        """A line of text for the user."""

    def stage(self, name: str) -> None:
        """A stage begins: "join", "load", "encode", "denoise", "decode", "write",
        "wait" (for other replicas), "room" (the wait for a disk that takes no files) or "refine" (of a calibration)."""

    def loading(self, part: str) -> None:
        """Within loading, the weights of this part are read now: "transformer", "VAE" or "text encoder"."""

    def doing(self, name: str) -> None:
        """Within a stage, this rank now works for the stage ``name``: decoding and writing alternate."""

    def step(self, index: int, total: int, action: str) -> None:
        """Denoise step ``index`` (from 0) of ``total`` is done, and was a "warmup", "compute" or "skip"."""

    def decoded(self, frames: int, total: int) -> None:
        """That many frames, of ``total``, of a video are decoded; on the rank that writes it."""

    def saved(self, seconds: float) -> None:
        """A checkpoint of this rank is on the disk; to write it took so long, most of it beside the denoise steps."""

    def alive(self) -> None:
        """This rank is well: layers of an encoder or a VAE have run, or it waits for a disk, in which it calls this at
        least once a second."""

    def done(self) -> None:
        """All videos of this replica are finished; not called if one fails."""
