"""The kernel that loading settles on, and that all attention of the blocks runs through it."""

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn

from engine.errors import MachineUnfit
from engine.execution import attention as settling
from engine.execution.attention import settle_kernel
from engine.progress import Progress
from parallel.degrees import Degrees
from parallel.diffusers_private import set_attention_kernel
from parallel.joint import drop_masks
from parallel.kernels import Found, KernelName
from parallel.ranks import Ranks
from tests.support.small_model import tiny_config
from tests.support.tiny_hunyuan import KINDS, ask_adapter, make_adapter, make_inputs, make_transformer, one_rank

BF16 = "model.dtype=bfloat16"


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def settle(wish: str, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], rank: int = 0) -> tuple[str, list[str]]:
    """On two H100 in a ring, where these kernels are wrong."""
    monkeypatch.setattr(settling, "capability_of", lambda _: (9, 0))
    monkeypatch.setattr(settling, "find_kernels", lambda _: Found({"sage": "sageattention is not installed"}))
    monkeypatch.setattr(settling, "_try", lambda kernel, *_: wrong.get(kernel))
    notes = Notes()
    ranks = Ranks(Degrees(ring=2), rank, torch.device("cuda", rank))
    return settle_kernel(tiny_config("parallel.ring=2", BF16, f"runtime.attention={wish}"), ranks, notes), notes.lines


def test_auto_takes_the_next_where_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle("auto", monkeypatch, {}) == ("flash3", [])
    wrong = {"flash3": "its log-sum-exp is wrong by 4.2e+00 on this machine, and a ring needs it"}
    kernel, notes = settle("auto", monkeypatch, wrong)
    assert kernel == "cudnn" and len(notes) == 1 and "flash3 is passed over" in notes[0] and "4.2e+00" in notes[0]
    assert settle("auto", monkeypatch, wrong, rank=1) == ("cudnn", []), "one rank says it"
    assert settle("auto", monkeypatch, wrong | {"cudnn": "it fails"})[0] == "sdpa"


def test_a_wrong_kernel_that_is_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineUnfit, match=r"^runtime\.attention is cudnn, but its log-sum-exp is wrong: use auto"):
        settle("cudnn", monkeypatch, {"cudnn": "its log-sum-exp is wrong"})
    with pytest.raises(MachineUnfit, match=r"^runtime\.attention is sage, but parallel\.ring is 2"):
        settle("sage", monkeypatch, {})
    with pytest.raises(MachineUnfit, match=r"torch's own is there, but it fails"):
        settle("auto", monkeypatch, dict.fromkeys(("flash3", "cudnn", "sdpa"), "it fails"))


@pytest.mark.parametrize("degrees", [Degrees(), Degrees(ring=2), Degrees(ulysses=2)], ids=str)
def test_the_kernel_of_a_ring_is_tried_for_its_log_sum_exp(degrees: Degrees, monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def zeros(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, log_sum_exp = right(*inputs)
        return out, torch.zeros_like(log_sum_exp)

    monkeypatch.setattr("parallel.kernel_calls.cpu_flash_attention", lambda: zeros)
    group: Any = object() if degrees.sequence > 1 else None
    config, ranks = tiny_config(), Ranks(degrees, sequence_group=group)
    if degrees.ring == 1:
        assert settle_kernel(config, ranks, Progress()) == "sdpa"
    else:
        with pytest.raises(MachineUnfit, match="log-sum-exp is wrong"):
            settle_kernel(config, ranks, Progress())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The backend of each call of attention, and whether it had a mask."""
    seen: list[tuple[str, bool]] = []

    def dispatch(*args: Any, backend: Any = None, attn_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        seen.append((backend.value if backend else "default", attn_mask is not None))
        out: torch.Tensor = dispatch_attention_fn(*args, attn_mask=attn_mask, **kwargs)
        return out

    for module in ("transformer_wan", "transformer_hunyuan_video", "transformer_hunyuan_video15"):
        monkeypatch.setattr(f"diffusers.models.transformers.{module}.dispatch_attention_fn", dispatch)
    monkeypatch.setattr("parallel.joint.dispatch_attention_fn", dispatch)
    return seen


@pytest.mark.parametrize(("kernel", "backend"), [("cudnn", "_native_cudnn"), ("sage", "sage"), ("flash3", "_flash_3")])
def test_wan_attends_to_video_text_and_image_through_it(
    calls: list[tuple[str, bool]], kernel: KernelName, backend: str
) -> None:
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=8,
        num_layers=2, image_dim=8, added_kv_proj_dim=24,
    )  # fmt: skip
    set_attention_kernel(model, kernel)
    with torch.no_grad():
        model(torch.randn(1, 4, 1, 4, 4), torch.tensor([5]), torch.randn(1, 512, 8), torch.randn(1, 257, 8))
    assert calls == [(backend, False)] * 6, "video, image and text of two blocks"


@pytest.mark.parametrize("kind", KINDS)
def test_joint_attention_runs_through_it_without_a_mask(calls: list[tuple[str, bool]], kind: str) -> None:
    transformer = make_transformer(kind, 2)
    if kind.startswith("1.5"):
        drop_masks(transformer)
    adapter = make_adapter(transformer)
    set_attention_kernel(transformer, "efficient")
    latents, lane = make_inputs(kind, (4, 6, 8), 7, 4)
    with torch.no_grad():
        ask_adapter(adapter, latents, torch.tensor(737.0), lane, one_rank(adapter, latents))
    assert calls == [("_native_efficient", False)] * adapter.num_blocks
