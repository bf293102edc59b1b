"""How the engine tells what it is doing. The base class is silent; launch/ draws it."""


class Progress:
    """Called by the engine on EVERY rank: who draws decides which rank draws.

    The calls come from the thread that runs the engine, so they must return quickly.
    """

    def video(self, index: int, count: int) -> None:
        """Video ``index`` (from 0) of a list of ``count`` begins."""

    def note(self, line: str) -> None:
        """Something about the run that a person wants to know, in one line."""

    def stage(self, name: str) -> None:
        """A stage begins: "join", "load", "encode", "denoise", "decode", "write",
        "wait" (for other replicas) or "refine" (of a calibration)."""

    def doing(self, name: str) -> None:
        """Within a stage, this rank turns to the work of another one, as decoding and writing take turns."""

    def step(self, index: int, total: int, action: str) -> None:
        """Denoise step ``index`` (from 0) of ``total`` is done, and was a "warmup", "compute" or "skip"."""

    def done(self) -> None:
        """This replica's videos are finished; not called when one fails."""
