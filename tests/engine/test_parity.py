"""I3: with the cache off, the engine gives what the diffusers pipeline gives."""

import functools
import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.components.wan.autoencoder import load_wan_autoencoder
from engine.config import Config
from engine.engine import Engine, Result
from engine.execution.loaded import load_model
from engine.media.video import write_video
from engine.progress import Progress
from engine.request import GenerationRequest, make_request
from parallel.degrees import Degrees
from parallel.meter import CollectiveMeter
from parallel.ranks import Ranks
from tests.support.gang import Gang
from tests.support.parity import difference, pipeline_video
from tests.support.slow import all_slow_but
from tests.support.small_model import PROMPT, tiny_config

OTHER = "a blue square moving up on a navy background"
CASES = {
    "as shipped": ([PROMPT], "", ()),
    "negative prompt": ([PROMPT], "a green triangle", ()),
    "no guidance": ([PROMPT], "", ("sampling.guidance=1",)),
    "euler, shift 5": ([PROMPT], "", ("sampling.scheduler=euler", "sampling.shift=5")),
    "two prompts": ([PROMPT, OTHER], "", ()),
    "short text": ([PROMPT], "", ("sampling.max_sequence_length=40",)),
    "odd size": ([PROMPT], "", ("sampling.frames=5", "sampling.height=48", "sampling.width=112")),
    "one frame": ([PROMPT], "", ("sampling.frames=1",)),
}


def asked(config: Config, prompts: list[str], negative_prompt: str) -> GenerationRequest:
    return make_request(prompts, negative_prompt, 11, config.sampling)


def generate(ranks: Ranks, config: Config, prompts: list[str], negative_prompt: str) -> Result:
    return Engine(load_model(config, ranks), Progress()).generate(asked(config, prompts, negative_prompt))


def decoded(config: Config, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(load_wan_autoencoder(config, Ranks()).decode(latents, CollectiveMeter())))


@functools.cache  # four tests ask for some
def pipelines_latents(case: str) -> torch.Tensor:
    prompts, negative_prompt, overrides = CASES[case]
    config = tiny_config("cache.method=none", *overrides)
    return pipeline_video(config, asked(config, prompts, negative_prompt))


@pytest.mark.parametrize("case", all_slow_but(["negative prompt", "euler, shift 5", "two prompts", "odd size"], CASES))
def test_one_rank_gives_the_pipelines_latents(case: str) -> None:
    prompts, negative_prompt, overrides = CASES[case]
    config = tiny_config("cache.method=none", *overrides)
    latents = generate(Ranks(), config, prompts, negative_prompt).latents
    assert difference(latents, pipelines_latents(case)) <= 1e-5


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2), Degrees(ring=3), Degrees(cfg=2, ulysses=2)], ids=str)
@pytest.mark.parametrize("case", ["as shipped", "two prompts", "odd size"])
def test_several_ranks_give_the_pipelines_latents(gang: Gang, degrees: Degrees, case: str) -> None:
    prompts, negative_prompt, overrides = CASES[case]
    config = tiny_config("cache.method=none", *overrides)
    for result in gang.run(generate, degrees, config, prompts, negative_prompt):
        assert difference(result.latents, pipelines_latents(case)) <= 1e-5


def test_decoding_gives_the_pipelines_frames() -> None:
    config = tiny_config("cache.method=none")
    expected = pipeline_video(config, asked(config, [PROMPT], ""), "np")[0].numpy()
    latents = generate(Ranks(), config, [PROMPT], "").latents
    frames = decoded(config, latents[0]).numpy()
    assert frames.shape == expected.shape
    assert np.abs(frames - 255.0 * expected).max() <= 0.51, "rounding to 8 bits is all that may differ"


def test_the_file_shows_the_frames(tmp_path: Path) -> None:
    config = tiny_config("cache.method=none", "runtime.metadata=false")
    request = make_request([PROMPT], "", 11, config.sampling)
    engine = Engine(load_model(config, Ranks()), Progress())
    path, again = tmp_path / "video.mp4", tmp_path / "again.mp4"
    result = engine.generate(request, output=path, latents=tmp_path / "latents.safetensors")
    frames = decoded(config, result.latents[0])
    assert result.report
    assert result.report["output"]["frames_sha256"] == hashlib.sha256(frames.numpy().tobytes()).hexdigest()
    assert result.report["output"]["latents_sha256"] == hashlib.sha256(result.latents.numpy().tobytes()).hexdigest()
    assert torch.equal(load_file(tmp_path / "latents.safetensors")["latents"], result.latents)
    write_video([frames], again, config.sampling.fps, *frames.shape[1:3])
    assert again.read_bytes() == path.read_bytes(), "the same frames must make the same file"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == config.sampling.fps
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert shown.shape == frames.shape
    error = np.mean((shown / 255.0 - frames.numpy() / 255.0) ** 2)
    assert 10 * np.log10(1 / error) > 30, "compression may cost a little, another video would cost much more"
