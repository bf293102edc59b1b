"""What stays in memory between requests."""

from dataclasses import dataclass
from typing import Any

from engine.components.autoencoder import Autoencoder, load_autoencoder
from engine.components.text_encoder import TextEncoder
from engine.components.transformer import load_transformer, uses_flash
from engine.config import Config
from engine.denoise import load_scheduler_config
from engine.models.adapter import Adapter
from engine.models.facts import ModelFacts, read_facts
from engine.models.wan import WanAdapter
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import Shards


@dataclass(frozen=True)
class LoadedModel:
    """One rank's share of a checkpoint. The first rank of a replica alone encodes text and writes video."""

    config: Config
    ranks: Ranks
    facts: ModelFacts
    adapter: Adapter
    scheduler_config: dict[str, Any]
    attention: Any  # parallel.attention.SequenceAttention, or None where one rank holds the sequence
    text_encoder: TextEncoder | None
    autoencoder: Autoencoder
    load_seconds: float = 0.0

    @property
    def is_first(self) -> bool:
        return self.ranks.replica_rank == 0

    def begin(self, shards: Shards, meter: CollectiveMeter) -> None:
        """Tell the attention how the next request's tokens lie over the ranks."""
        if self.attention is not None:
            self.attention.begin(shards, meter)


def load_model(config: Config, ranks: Ranks) -> LoadedModel:
    """Load what this rank needs.

    Raises:
        InvalidInput: the folder is not a model that Lockstep runs.
        RankFailure: a file in it cannot be loaded.
    """
    is_first = ranks.replica_rank == 0
    transformer = load_transformer(config, ranks.device)
    attention = None
    if ranks.sequence_group is not None:
        from parallel.attention import install_sequence_attention  # imports xDiT, which one rank can do without

        attention = install_sequence_attention(transformer, ranks, uses_flash(config, ranks.device))
    return LoadedModel(
        config=config,
        ranks=ranks,
        facts=read_facts(config.model.path),
        adapter=WanAdapter(transformer),
        scheduler_config=load_scheduler_config(config),
        attention=attention,
        text_encoder=TextEncoder(config, ranks.device) if is_first else None,
        autoencoder=load_autoencoder(config, ranks),
    )
