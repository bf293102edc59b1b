"""I6 over ranks: a request leaves nothing behind, finished, cancelled or failed."""

import torch

from engine.config import Config
from engine.engine import Engine
from engine.errors import Cancelled
from engine.execution.loaded import load_model
from engine.progress import Progress
from engine.request import make_request
from parallel.control import Control
from parallel.degrees import Degrees
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.small_model import PROMPT, tiny_config


def cancel_then_generate(ranks: Ranks, config: Config) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Rank 1 alone asks to cancel at its seventh step; then a fresh request on the same engine."""
    engine = Engine(load_model(config, ranks), Progress())
    other = make_request(["a blue square moving up on a navy background"], "", 3, config.sampling)
    asked = iter(range(-1, 1000))  # once before the first step
    messages = []
    try:
        engine.generate(other, control=lambda: Control.CANCEL if next(asked) == 6 and ranks.rank == 1 else Control.RUN)
    except Cancelled as error:
        messages.append(str(error))
    request = make_request([PROMPT], "", 7, config.sampling)
    after = engine.generate(request).latents
    fresh = Engine(load_model(config, ranks), Progress()).generate(request).latents
    return messages, after, fresh


def test_one_rank_cancels_for_all_at_the_same_step_and_leaves_nothing_behind(gang: Gang) -> None:
    results = gang.run(cancel_then_generate, Degrees(ulysses=2), tiny_config())
    for messages, after, fresh in results:
        assert messages == ["Cancelled at denoise step 6."]
        assert torch.equal(after, fresh)
