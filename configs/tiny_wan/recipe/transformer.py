"""The denoiser: flow matching on encoded clips, the text encoder trained along with it."""

import shutil
import time
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from configs.tiny_wan.recipe.attention import (
    NUM_TEXT_TOKENS,
    TrainingAttention,
    draw_padded_lengths,
    padding_bias,
)
from configs.tiny_wan.recipe.export import FLOW_SHIFT
from configs.tiny_wan.recipe.latents import LatentPool
from configs.tiny_wan.recipe.loop import (
    SAVE_EVERY_SECONDS,
    faster_precision,
    learning_rate,
    load_state,
    log,
    pick_device,
    save_state,
    set_learning_rate,
    update_average,
)
from configs.tiny_wan.recipe.text import TEXT_DIM, build_text_encoder, encode_text, tokenize

BATCH = 16
NUM_EMPTY = 8
EMPTY_PROMPT_WEIGHT = 8.0
FIRST_FRAME_WEIGHT = 3.0
AVERAGE_DECAY = 0.999
NUM_WARMUP_STEPS = 300
MUON_PEAK = 5e-3
ADAMW_PEAK = 1.5e-3


def build_transformer() -> WanTransformer3DModel:
    """A new transformer of the published class, three million weights."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=256,
        ffn_dim=384,
        num_layers=12,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )


def draw_sigmas(num_samples: int, generator: torch.Generator) -> Tensor:
    """Logit-normal noise levels, float32 [B] in 0..1.

    Half are shifted as the sampler shifts its own: there colour, place and motion are settled. The others are
    not: without enough of the lower levels outlines stay soft and bend under guidance.
    """
    sigmas = torch.sigmoid(torch.randn(num_samples, generator=generator))
    shift = torch.where(torch.rand(num_samples, generator=generator) < 0.5, FLOW_SHIFT, 1.0)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


class Denoiser:
    """Transformer and text encoder, what they learn with, and their running average."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        self.tokenizer = tokenizer
        self.device = device
        self.transformer: WanTransformer3DModel = build_transformer().to(device)
        self.text_encoder: UMT5EncoderModel = build_text_encoder()
        self.text_encoder.to(device)  # type: ignore[arg-type]
        # Rotary tables are float64 as built; in training that only doubles their cost.
        self.transformer.rope.float()
        self.attention = TrainingAttention()
        learned = torch.nn.ModuleList([self.transformer, self.text_encoder])
        self.average = deepcopy(learned).requires_grad_(False)
        for block in self.transformer.blocks:
            block.attn1.set_processor(self.attention)
            block.attn2.set_processor(self.attention)
        matrices, others = self.split_parameters()
        # Muon learns in half the steps that AdamW needs here, at a quarter more time a step.
        muon = torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.01)
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [(muon, MUON_PEAK), (adamw, ADAMW_PEAK)]

    def parameters(self) -> list[Tensor]:
        return [*self.transformer.parameters(), *self.text_encoder.parameters()]

    def split_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """(matrices of the transformer's blocks, everything else)."""
        matrices = [weight for weight in self.transformer.blocks.parameters() if weight.ndim == 2]
        taken = {id(weight) for weight in matrices}
        return matrices, [weight for weight in self.parameters() if id(weight) not in taken]

    def loss(self, latents: Tensor, captions: list[str], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Mean squared error of the predicted velocity for latents [B, 16, F, H, W], captioned and not.

        The first NUM_EMPTY samples enter once more with an empty prompt and, as its target, what the model
        predicts with the caption. In the mean that is the velocity itself, but both branches then err alike;
        guidance multiplies their difference and would turn separate errors into bent outlines.
        """
        num_samples = latents.shape[0]
        ids, mask = tokenize(self.tokenizer, [*captions, *[""] * NUM_EMPTY])
        room = NUM_TEXT_TOKENS - ids.shape[1]
        ids, mask = F.pad(ids, (0, room)), F.pad(mask, (0, room))
        bias = padding_bias(mask, draw_padded_lengths(num_samples + NUM_EMPTY, generator))
        sigmas = draw_sigmas(num_samples, generator)
        noise = torch.randn(latents.shape, generator=generator)
        weight = sigmas[:, None, None, None, None]
        noisy = (1 - weight) * latents + weight * noise
        noisy, timestep = (torch.cat([x, x[:NUM_EMPTY]]).to(self.device) for x in (noisy, 1000 * sigmas))
        self.attention.text_bias = bias.to(self.device)
        embeddings = encode_text(self.text_encoder, ids.to(self.device), mask.to(self.device))
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            velocity = self.transformer(noisy, timestep, embeddings, return_dict=False)[0]
        captioned, empty = velocity.float().split([num_samples, NUM_EMPTY])
        # The first latent frame stands for one frame, not four, and varies half as much as the others.
        frame_weight = torch.ones(latents.shape[2], device=self.device)
        frame_weight[0] = FIRST_FRAME_WEIGHT
        frame_weight = (frame_weight / frame_weight.mean())[:, None, None]
        difference = frame_weight * (empty - captioned[:NUM_EMPTY].detach()).square()
        # What guidance bends at low noise stays bent; at high noise the branches differ because they should.
        empty_weight = EMPTY_PROMPT_WEIGHT * (1 - weight[:NUM_EMPTY].to(self.device))
        error = frame_weight * (captioned - (noise - latents).to(self.device)).square()
        return error.mean() + (empty_weight * difference).mean()

    def step(self, loss: Tensor, step: int, num_steps: int) -> None:
        for optimizer, _ in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer, peak in self.optimizers:
            set_learning_rate(optimizer, learning_rate(step, num_steps, peak, NUM_WARMUP_STEPS))
            optimizer.step()
        average_decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        update_average(self.average.parameters(), self.parameters(), average_decay)

    def state(self, step: int) -> dict[str, object]:
        return {
            "step": step,
            "transformer": self.transformer.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
        }

    def resume(self, path: Path) -> int:
        """Takes over the saved state, if any; returns the step to go on from."""
        state = load_state(path)
        if state is None:
            return 0
        self.transformer.load_state_dict(state["transformer"])
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.average.load_state_dict(state["average"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])


def train_transformer(
    state_path: Path,
    vae: AutoencoderKLWan,
    tokenizer: PreTrainedTokenizerFast,
    num_steps: int,
    report: Callable[[int, WanTransformer3DModel, UMT5EncoderModel], None],
    report_every_steps: int = 2000,
    seed: int = 1,
) -> tuple[WanTransformer3DModel, UMT5EncoderModel]:
    """The averaged transformer and text encoder; `report` sees them as they grow."""
    device = pick_device()
    torch.manual_seed(seed)
    denoiser = Denoiser(tokenizer, device)
    average: Any = denoiser.average
    pool = LatentPool(vae, seed)
    first_step = denoiser.resume(state_path)
    if first_step < num_steps:
        pool.fill(state_path.with_name("latents.pt"))

    def trial(dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(seed)
        denoiser.loss(*pool.batch(BATCH, generator), generator, dtype).backward()

    dtype = faster_precision(trial, device) if first_step < num_steps else torch.float32
    if shutil.which("g++"):
        # Half of an uncompiled step on a CPU goes to pointwise work that this fuses.
        denoiser.transformer.compile_repeated_blocks(dynamic=False)
    losses: deque[float] = deque(maxlen=100)
    saved_at = time.monotonic()
    for step in range(first_step, num_steps):
        generator = torch.Generator().manual_seed((seed << 32) + step)
        pool.refresh(step)
        loss = denoiser.loss(*pool.batch(BATCH, generator), generator, dtype)
        denoiser.step(loss, step, num_steps)
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            log.info("transformer step %d loss %.4f pool %d", step, sum(losses) / len(losses), len(pool))
        if step + 1 == num_steps or time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
            save_state(state_path, denoiser.state(step + 1))
            saved_at = time.monotonic()
        if (step + 1) % report_every_steps == 0:
            report(step + 1, average[0], average[1])
    return average[0], average[1]
