"""What of a prompt does not reach the model is said: cut at a limit of tokens, unknown, or without effect."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from transformers import AutoTokenizer, ByT5Tokenizer

from engine.checks.notes import request_notes
from engine.checks.preflight import preflight
from engine.components.hunyuan_video.image_to_video import HunyuanVideoImagePromptEncoder
from engine.components.hunyuan_video.prompt_encoder import HunyuanVideoPromptEncoder
from engine.components.hunyuan_video15.prompt_encoder import HunyuanVideo15PromptEncoder
from engine.components.texts import unread_note
from engine.components.wan.prompt_encoder import WanPromptEncoder
from engine.engine import Engine
from engine.errors import InvalidInput
from engine.execution.loaded import load_model
from engine.models.facts import read_facts
from engine.progress import Progress
from engine.request import GenerationRequest, Outputs, make_request, make_tasks, read_prompts
from parallel.diffusers_private import qwen_tokens
from parallel.place import Place
from parallel.ranks import Ranks
from tests.support.hunyuan15_checkpoint import qwen_tokenizer
from tests.support.hunyuan_checkpoint import llama_tokenizer, write_clip
from tests.support.small_model import PROMPT, tiny_config


def encoder(kind: type, **parts: Any) -> Any:
    """A prompt encoder with tokenizers alone."""
    made = object.__new__(kind)
    vars(made).update(parts)
    return made


@pytest.fixture(scope="module")
def wan() -> WanPromptEncoder:
    tokenizer = AutoTokenizer.from_pretrained("configs/tiny_wan/tokenizer")
    return encoder(WanPromptEncoder, _pipeline=SimpleNamespace(tokenizer=tokenizer))


def asked(prompt: str, negative_prompt: str = "", **sampling: Any) -> GenerationRequest:
    overrides = (f"sampling.{key}={value}" for key, value in sampling.items())
    return make_request([prompt], negative_prompt, 0, tiny_config(*overrides).sampling)


def test_what_umt5_cuts(wan: WanPromptEncoder) -> None:
    limit = 20
    fits = " ".join(["red circle"] * 9)  # 2 tokens each, the one that ends it, and one to spare
    assert wan.notes(asked(fits, max_sequence_length=limit), 2) == []
    text = f"{fits} moving  right &amp; left"
    (line,) = wan.notes(asked(text, max_sequence_length=limit), 2)
    tokenizer = wan._pipeline.tokenizer
    cleaned = text.replace("&amp;", "&").replace("  ", " ")
    total = len(tokenizer(cleaned).input_ids)
    assert line.startswith("--prompt 'red circle") and f"of its {total} tokens UMT5" in line
    assert f"reads {limit}" in line and "sampling.max_sequence_length" in line and len(line) < 250
    kept = tokenizer.decode(tokenizer(cleaned, truncation=True, max_length=limit).input_ids, skip_special_tokens=True)
    left_out = re.search(r"without '(.*)'", line)
    assert left_out and f"{kept.strip()} {left_out[1]}" == cleaned, "what is kept and what is left out make the whole"


def test_both_texts_are_looked_at_where_both_are_read(wan: WanPromptEncoder) -> None:
    request = asked("a red circle", "a blue circle " * 10, max_sequence_length=9)
    (line,) = wan.notes(request, 2)
    assert line.startswith("--negative-prompt 'a blue circle")
    assert wan.notes(request, 1) == []


@pytest.mark.parametrize("text", ["&nbsp;", "\0", "\x1b", "\u2028 &#32;"])
def test_a_text_of_which_nothing_is_left(text: str, wan: WanPromptEncoder) -> None:
    (line,) = wan.notes(asked(f"{text}\x01"), 2)
    assert line.startswith("--prompt") and "has no effect" in line and line.isprintable()


def test_words_that_the_tokenizer_does_not_know() -> None:
    tokenizer: Any = llama_tokenizer()  # of whole words, and without one for pieces
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    made = encoder(WanPromptEncoder, _pipeline=SimpleNamespace(tokenizer=tokenizer))
    assert made.notes(asked("a red circle"), 2) == []
    (line,) = made.notes(asked("a zebra moving \U0001f984"), 2)
    assert "does not know: 'zebra', '\U0001f984'" in line
    (line,) = made.notes(asked("zebra"), 2)
    assert "has no effect: the model knows nothing of it ('zebra')" in line


def test_a_mark_before_a_word_that_the_tokenizer_does_not_know_is_no_word() -> None:
    class Marks:
        unk_token_id = 0

        def __call__(self, text: str, **options: Any) -> dict[str, Any]:
            return {"input_ids": [0, 5, 0, 6], "offset_mapping": [(0, 0), (0, 3), (3, 4), (4, 10)]}

    assert unread_note("--prompt", "red circle", Marks(), "red circle") is None


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_clip(tmp_path_factory.mktemp("clip"))["tokenizer_2"]


@pytest.mark.parametrize("kind", [HunyuanVideoPromptEncoder, HunyuanVideoImagePromptEncoder])
def test_what_llama_and_clip_cut(kind: Any, clip: Any) -> None:
    llama: Any = llama_tokenizer()
    made = encoder(kind, _pipeline=SimpleNamespace(tokenizer=llama, tokenizer_2=clip))
    assert made.notes(asked("a red circle", max_sequence_length=256), 1) == []
    (line,) = made.notes(asked("x " * 76 + "left", max_sequence_length=256), 1)
    assert "of its 82 tokens CLIP reads 77, without 'x left'" in line
    llama_line, clip_line = made.notes(asked("red circle " * 150 + "moving left", max_sequence_length=256), 1)
    template = made._template
    total = len(llama(template["template"].format("red circle " * 150 + "moving left")).input_ids)
    assert (
        f"of its {total - template['crop_start']} tokens Llama (sampling.max_sequence_length) reads 256" in llama_line
    )
    assert "CLIP reads 77" in clip_line
    negative = asked("a red circle", "blue " * 300, max_sequence_length=256)
    assert len(made.notes(negative, 2)) == 2 and made.notes(negative, 1) == []


def test_the_image_template_is_the_image_pipelines() -> None:
    assert HunyuanVideoPromptEncoder._template == DEFAULT_PROMPT_TEMPLATE
    assert "<image>" in HunyuanVideoImagePromptEncoder._template["template"]


def test_what_qwen_and_byt5_cut() -> None:
    qwen: Any = qwen_tokenizer()
    made = encoder(HunyuanVideo15PromptEncoder, _tokenizer=qwen, _byte_tokenizer=ByT5Tokenizer())
    assert made.notes(asked('a "red" circle', max_sequence_length=1000), 2) == []
    text = "user " * 1200
    (line,) = made.notes(asked(text, max_sequence_length=1000), 2)
    assert f"of its {len(qwen_tokens(qwen, text))} tokens Qwen2.5-VL (sampling.max_sequence_length) reads 1000" in line
    (line,) = made.notes(asked(f"a sign “{'x' * 300}”", max_sequence_length=1000), 2)
    # Text "...". and a space, and the token that ends it
    assert "ByT5" in line and "of its 310 tokens" in line and "reads 256, without 'xxx" in line


def test_qwens_tokens_are_those_that_its_pipeline_crops() -> None:
    qwen: Any = qwen_tokenizer()
    start = qwen.decode(qwen_tokens(qwen, "a red circle"))
    assert start.startswith("a red circle<|im_end|>") and start.rstrip().endswith("assistant")


def test_a_negative_prompt_without_guidance() -> None:
    facts = read_facts("configs/tiny_wan")
    config = tiny_config("sampling.guidance=1")
    (line,) = request_notes(config, asked("x", "blurry", guidance=1), facts)
    assert "--negative-prompt has no effect" in line and "sampling.guidance is 1," in line
    assert request_notes(config, asked("x", "blurry", guidance=1.5), facts) == []
    assert request_notes(config, asked("x", " \n", guidance=1), facts) == []
    tasks = make_tasks(["x", "y"], "blurry", [0, 1], config.sampling, Outputs())
    assert preflight(config, tasks, Place(1)).notes == [line], "once, not for each video"


@pytest.mark.parametrize("option", ["--prompt", "--negative-prompt"])
def test_more_letters_than_any_encoder_reads_are_refused(option: str, wan: WanPromptEncoder) -> None:
    sampling = tiny_config().sampling
    most = "é" * 100_000
    texts = (most, "") if option == "--prompt" else ("x", most)
    request = make_request([texts[0]], texts[1], 0, sampling)
    assert any(option in line and "is cut" in line for line in wan.notes(request, 2))
    texts = (most + "x", "") if option == "--prompt" else ("x", most + "x")
    with pytest.raises(InvalidInput) as caught:
        make_request([texts[0]], texts[1], 0, sampling)
    sentence = str(caught.value)
    assert sentence.startswith(option) and "100001 letters" in sentence and "100000 are the most" in sentence
    assert len(sentence) < 200


def test_files_of_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa\r\nb\0c\r\n\n é \n".encode())
    assert read_prompts(file) == ("a", "b\0c", "é")
    with pytest.raises(InvalidInput, match="more than 256 MB"):
        read_prompts(Path("/dev/zero"))


def test_said_once_and_kept_in_the_reports() -> None:
    class Notes(Progress):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, line: str) -> None:
            self.lines.append(line)

    config = tiny_config(
        "sampling.steps=1", "sampling.max_sequence_length=8", "sampling.guidance=1", "cache.method=none"
    )
    tasks = make_tasks([PROMPT, "a red circle"], "blurry", [0, 1], config.sampling, Outputs())
    said = Notes()
    reports = Engine(load_model(config, Ranks()), said).generate_all(tasks)
    assert reports is not None and len(reports) == 4
    (line,) = said.lines
    assert line.startswith(f"--prompt '{PROMPT[:30]}") and "reads 8" in line
    for report, is_cut in zip(reports, (True, True, False, False), strict=True):
        assert ["--negative-prompt has no effect" in note for note in report["notes"]].count(True) == 1
        assert (line in report["notes"]) == is_cut
