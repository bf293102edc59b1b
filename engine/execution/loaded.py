"""The loaded model: what stays in memory between requests."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from engine.components.host_copies import Mover, mover_for
from engine.components.loras.adding import add_loras, describe_loras, plan_loras
from engine.components.loras.plan import Plan
from engine.components.parts import ImageConditioner, Parts, PromptEncoder, VideoDecoder, parts_of
from engine.components.residence import Residence
from engine.components.samplers import load_scheduler_config
from engine.components.signs_of_life import SignsOfLife
from engine.components.tensors import check_files
from engine.components.transformer import load_sharded_transformer, load_transformer
from engine.config import Config, SamplingConfig
from engine.cost.card import card_bytes
from engine.cost.job import Job, job_of
from engine.execution.attention import check_places, settle_kernel
from engine.execution.compiling import CompiledBlocks
from engine.execution.homes import Homes, homes_of
from engine.execution.imports import import_ahead
from engine.execution.residency import BlockWeights, Residency, pieces_of, with_residence
from engine.models.adapter import Adapter
from engine.models.facts import ModelFacts, read_facts
from engine.progress import Progress
from parallel.diffusers_private import set_attention_kernel
from parallel.fixed_rows import FixedRows
from parallel.kernels import KernelName
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from parallel.sharding import Shards
from parallel.weights import ShardedWeights


@dataclass(frozen=True)
class Expert:
    """One transformer, ready to run on this rank."""

    adapter: Adapter
    attention: Any  # parallel.attention.SequenceAttention, or None where one rank holds the sequence
    weights: ShardedWeights | None  # None where each rank holds all of them


@dataclass(frozen=True)
class LoadedModel:
    """One rank's share of a model. Only the first rank of a replica reads images and writes video, and only it encodes
    text, unless the text encoder's weights are sharded."""

    config: Config
    ranks: Ranks
    facts: ModelFacts
    parts: Parts
    experts: tuple[Expert, ...]  # the one for high noise first
    residency: Residency
    residence: Residence  # of all other parts
    scheduler_config: dict[str, Any]
    text_encoder: PromptEncoder | None
    autoencoder: VideoDecoder
    images: ImageConditioner | None  # None where the model takes text alone
    attention_kernel: KernelName
    loras: Sequence[dict[str, Any]] = ()  # for the report, on the first rank of a replica
    load_seconds: float = 0.0
    compiled: CompiledBlocks | None = None  # None where blocks run as they are

    @property
    def is_first(self) -> bool:
        """Whether this is the first rank of its replica."""
        return self.ranks.replica_rank == 0

    @property
    def adapter(self) -> Adapter:
        """The adapter of the first expert; the others have the same architecture."""
        return self.experts[0].adapter

    def begin(self, shards: Shards, meter: CollectiveMeter, progress: Progress) -> None:
        """Start a request: tell attention which tokens each rank holds."""
        if self.compiled is not None:
            self.compiled.announce(progress)
        for expert in self.experts:
            if expert.attention is not None:
                expert.attention.begin(shards, meter)

    def job(self, sampling: SamplingConfig | None = None) -> Job:
        """What the memory of a request is estimated by."""
        on_card = self.ranks.device.type == "cuda"
        return job_of(self.config, self.facts, self.ranks.degrees, on_card=on_card, sampling=sampling)

    def prepare(self, sampling: SamplingConfig, expert: int) -> None:
        """A request begins: decide what stays on the card, and start to bring the weights of its first transformer.

        Args:
            expert: whose turn is the first.
        """
        if self.residence.moves:
            self.residence.begin(self.job(sampling).others_stay(card_bytes(self.ranks.device.index or 0)))
        self.residency.use(expert)

    @contextmanager
    def running(self, meter: CollectiveMeter) -> Iterator[None]:
        """The transformers may run inside; ``meter`` counts the bytes that gathering sharded weights sends."""
        with ExitStack() as stack:
            if self.config.runtime.deterministic:
                stack.enter_context(FixedRows(self.ranks.device))
            for expert in self.experts:
                if expert.weights is not None:
                    stack.enter_context(expert.weights.running(meter))
            yield


def load_job(config: Config, ranks: Ranks) -> Job:
    """What the memory of loading is estimated by."""
    facts = read_facts(config.model.path, config.model.single_files)
    return job_of(config, facts, ranks.degrees, on_card=ranks.device.type == "cuda")


def load_model(config: Config, ranks: Ranks, progress: Progress | None = None) -> LoadedModel:
    """Load this rank's share of the model that ``config`` names.

    Args:
        progress: told which part is read.

    Raises:
        InvalidInput: the folder is not a model that Lockstep runs, or an adapter cannot be applied to it.
        RankFailure: a file in it cannot be loaded.
    """
    is_first = ranks.replica_rank == 0
    facts = read_facts(config.model.path, config.model.single_files)
    sharded = config.parallel.shard_weights and ranks.replica_size > 1
    import_ahead(facts.family.parts, *(["parallel.attention"] if ranks.sequence_group else []))
    parts = parts_of(facts.family)
    check_files(config, facts)
    loras = plan_loras(config, facts)
    progress = progress or Progress()
    progress.loading("transformer" if len(facts.transformers) == 1 else f"{len(facts.transformers)} transformers")
    kernel = settle_kernel(config, ranks, progress)
    mover = mover_for(ranks.device)
    conditioner = parts.image_conditioner if facts.image_input != "none" else None
    all_encode = sharded and facts.family.shards_text_encoder
    encodes = is_first or all_encode
    with homes_of(config, ranks, facts, mover, progress) as homes:
        experts, residency = load_experts(config, ranks, facts, parts, sharded, loras, kernel, mover, homes)
        if config.runtime.deterministic and not sharded:
            check_places(experts[0].adapter.transformer)
        progress.loading("VAE")
        residence = Residence(mover, SignsOfLife(progress.alive, ranks.device), homes.encoder_copies)
        autoencoder = parts.video_decoder(config, ranks, residence)
        if encodes:
            progress.loading("text encoder")
        text_encoder = parts.prompt_encoder(config, ranks, all_encode, residence) if encodes else None
        images = conditioner(config, ranks, facts, autoencoder, residence) if conditioner else None
    return LoadedModel(
        config=config,
        ranks=ranks,
        facts=facts,
        parts=parts,
        experts=experts,
        residency=residency,
        residence=residence,
        scheduler_config=load_scheduler_config(config),
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        images=images,
        attention_kernel=kernel,
        loras=describe_loras(loras) if is_first else (),
        compiled=CompiledBlocks([e.adapter.transformer for e in experts]) if config.runtime.compile else None,
    )


def load_experts(
    config: Config,
    ranks: Ranks,
    facts: ModelFacts,
    parts: Parts,
    sharded: bool,
    loras: Sequence[Plan],
    kernel: KernelName,
    mover: Mover | None,
    homes: Homes,
) -> tuple[tuple[Expert, ...], Residency]:
    """Load the transformers one after the other, each put where it belongs before the next is read.

    Args:
        sharded: shard the weights over the ranks of the replica; then all parts stay on the device.
        loras: added to the weights.
        kernel: of the blocks' attention.
        mover: brings weights from the host's memory; None where the host's memory is the device's.
        homes: where weights wait; collective over its group.
    """
    experts: list[Expert] = []
    turns: list[BlockWeights] = []
    for subfolder in facts.transformers:
        weights = turn = None
        if sharded:
            transformer, weights = load_sharded_transformer(config, ranks, parts.transformer, subfolder)
            add_loras(transformer, loras, subfolder)
        elif homes.keep is None or mover is None:
            straight = mover is not None
            kind, group = parts.transformer, homes.group
            transformer = load_transformer(config, ranks.device, kind, subfolder, straight, group, loras)
            transformer = transformer.to(ranks.device)
        else:
            load = partial(load_transformer, config, ranks.device, parts.transformer, subfolder, loras=loras)
            transformer, rows = homes.copies.load(load, pieces_of) if homes.copies else (load(), [])
            turns.append(turn := homes.keep(transformer, mover, rows))
        adapter = parts.adapter(transformer)
        fixed = config.runtime.deterministic
        set_attention_kernel(
            transformer, kernel, fixed and ranks.device.type == "cuda" and adapter.dtype != torch.float32
        )
        attention = _install(transformer, config, ranks, kernel, experts[0].attention if experts else None)
        experts.append(Expert(with_residence(adapter, turn), attention, weights))
    return tuple(experts), Residency(turns)


def _install(transformer: Any, config: Config, ranks: Ranks, kernel: KernelName, shared: Any) -> Any:
    if ranks.sequence_group is None:
        return None
    from parallel.attention import install_sequence_attention  # imports xDiT, which one rank can do without

    runtime = config.runtime
    return install_sequence_attention(transformer, ranks, kernel, runtime.deterministic, runtime.compile, shared)
