"""``runtime.audit``: what is compared between the ranks of a replica while a request runs."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from dicache.controller import Lane, Plan, Step
from engine.execution.loaded import LoadedModel
from parallel.audit import Audit
from parallel.broadcast import Named
from parallel.meter import CollectiveMeter


class RequestAudit:
    """Compares what every rank of the replica must hold alike, bit for bit; each check is collective."""

    def __init__(self, model: LoadedModel, meter: CollectiveMeter) -> None:
        self._model = model
        self._audit = Audit(model.ranks, meter)
        self._encoded: dict[str, Tensor] = {}

    def check_inputs(self, lanes: Sequence[Lane], encoded: Sequence[Named]) -> None:
        """Compare the encoded prompts and images, and the weights that every rank holds whole.

        Weights are compared here alone, since they are large; the encoded prompts again at every step. Latents would
        not show a difference in either: they are gathered from all ranks, so they are equal on all of them.

        Args:
            encoded: the tensors of each lane, in the order of ``lanes``.

        Raises:
            DivergedError: something differs; on all ranks.
        """
        several = len({lane.sample for lane in lanes}) > 1
        for lane, named in zip(lanes, encoded, strict=True):
            whose = f"sample {lane.sample} {lane.branch}" if several else lane.branch
            self._encoded |= {f"{name} of {whose}": tensor for name, tensor in named.items()}
        weights = {
            f"weights {name} of transformer {number}": parameter
            for number, expert in enumerate(self._model.experts)
            if expert.weights is None  # else each rank has a part of its own
            for name, parameter in expert.adapter.transformer.named_parameters()
        }
        self._audit.check("before the first denoise step", {**self._encoded, **weights})

    def check_step(self, step: Step, plans: Mapping[Lane, Plan], latents: Tensor) -> None:
        """Compare a step's decisions and the latents after it.

        Raises:
            DivergedError: something differs; on all ranks.
        """
        things: dict[str, Tensor | str] = {"decisions": repr(plans), "latents": latents, **self._encoded}
        self._audit.check(f"after denoise step {step.index}", things)
