"""Trains the whole model and writes the pipeline folder.

    python -m configs.tiny_wan.recipe.train --output DIR

Stop it at any time: it saves its state every two minutes under --work and goes on from there.
"""

import argparse
import logging
from pathlib import Path

from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

from configs.tiny_wan.recipe.export import build_scheduler, export_pipeline
from configs.tiny_wan.recipe.judge import judge_pipeline
from configs.tiny_wan.recipe.latents import set_latent_statistics
from configs.tiny_wan.recipe.loop import log, pick_device
from configs.tiny_wan.recipe.text import build_tokenizer
from configs.tiny_wan.recipe.transformer import train_transformer
from configs.tiny_wan.recipe.vae import finish_decoder, train_vae


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tiny Wan model and write its pipeline folder.")
    parser.add_argument("--output", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--work", type=Path, help="folder for the saved state (default: OUTPUT.work)")
    parser.add_argument("--vae-steps", type=int, default=2500)
    parser.add_argument("--transformer-steps", type=int, default=7000)
    parser.add_argument("--decoder-steps", type=int, default=900)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    work = args.work or args.output.with_suffix(".work")

    tokenizer = build_tokenizer()
    vae: AutoencoderKLWan = train_vae(work / "vae.pt", args.vae_steps).to(pick_device())
    set_latent_statistics(vae, seed=2)

    def report(step: int, transformer: WanTransformer3DModel, text_encoder: UMT5EncoderModel) -> None:
        pipeline = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            scheduler=build_scheduler(),
            transformer=transformer,
        )
        shares = judge_pipeline(pipeline, num_prompts=20, seed=step, num_inference_steps=20)
        log.info("transformer step %d: %s", step, shares)
        export_pipeline(args.output, vae, transformer, text_encoder, tokenizer)

    transformer, text_encoder = train_transformer(
        work / "transformer.pt", vae, tokenizer, args.transformer_steps, report
    )
    finish_decoder(work / "decoder.pt", vae, args.decoder_steps)
    report(args.transformer_steps, transformer, text_encoder)


if __name__ == "__main__":
    main()
