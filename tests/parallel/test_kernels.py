"""Which attention kernel runs, and what is found out about those that cannot. The kernels that CUDA would run are
checked for shape on tensors that hold no data."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from parallel import found_kernels, xdit
from parallel.found_kernels import find_kernels
from parallel.kernel_calls import complaint_about_results, kernel_over_ranks
from parallel.kernels import KERNELS, Choice, Found, KernelName, Site, choose_kernel

A100, ADA, H100, B200, RTX50, T4 = (8, 0), (8, 9), (9, 0), (10, 0), (12, 0), (7, 5)
NOTHING = Found({"flash": "it is not installed", "flash3": "it is not installed", "sage": "it is not installed"})
ALL = Found()
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "found", "expected"),
    [
        (H100, NOTHING, "cudnn"),
        (H100, ALL, "flash3"),
        (H100, Found({"flash3": "x", "cudnn": "x"}), "sdpa"),  # flash-attn 2 is half as fast there
        (B200, NOTHING, "cudnn"),
        (B200, ALL, "cudnn"),  # FlashAttention-3 does not run there
        (A100, NOTHING, "sdpa"),
        (A100, ALL, "flash"),
        (ADA, ALL, "flash"),
        (RTX50, ALL, "sdpa"),
        (T4, ALL, "sdpa"),
    ],
)
@pytest.mark.parametrize("ring", [1, 4])
def test_auto_takes_the_fastest_of_the_card(
    capability: tuple[int, int], found: Found, expected: str, ring: int
) -> None:
    assert choose_kernel("auto", Site("cuda", "bfloat16", ring, capability), found) == Choice(expected)
    assert choose_kernel("auto", Site("cuda", "float32", ring, capability), found).kernel == "sdpa"


def test_auto_passes_over_what_is_broken_with_a_note() -> None:
    site, found = Site("cuda", "bfloat16", 2, H100), ALL.but("flash3", "the installed flash-attn-3 is too old")
    choice = choose_kernel("auto", site, found)
    assert choice.kernel == "cudnn"
    assert choice.notes == ("runtime.attention: flash3 is passed over, since the installed flash-attn-3 is too old",)
    choice = choose_kernel("auto", site, found.but("cudnn", "its log-sum-exp is wrong"))
    assert choice.kernel == "sdpa" and len(choice.notes) == 2
    assert choose_kernel("auto", Site("cpu", "float32"), found) == Choice("sdpa")


@pytest.mark.parametrize(
    ("wish", "site", "found", "words"),
    [
        ("flash", Site("cpu", "bfloat16"), ALL, ["CUDA", "cpu", "auto or sdpa"]),
        ("efficient", Site("cpu", "float32"), ALL, ["CUDA", "cpu"]),
        ("cudnn", Site("cuda", "float32", 1, H100), ALL, ["float32", "bfloat16"]),
        ("sage", Site("cuda", "bfloat16", 2), ALL, ["parallel.ring is 2", "log-sum-exp", "parallel.ulysses"]),
        ("sage", Site("cpu", "bfloat16", 2), ALL, ["parallel.ring is 2"]),
        ("flash3", Site("cuda", "bfloat16", 1, A100), ALL, ["8.0", "auto"]),
        ("flash3", Site("cuda", "bfloat16", 1, B200), ALL, ["10.0", "auto"]),
        ("flash", Site("cuda", "bfloat16", 1, T4), ALL, ["7.5", "auto"]),
        ("flash", Site("cuda", "bfloat16", 1, A100), NOTHING, ["not installed", "auto"]),
        ("flash", Site("cuda", "bfloat16"), ALL.but("flash", "it cannot be imported"), ["cannot be imported", "sdpa"]),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(wish: KernelName, site: Site, found: Found, words: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        choose_kernel(wish, site, found)
    for word in [f"runtime.attention is {wish}, but", *words]:
        assert word in str(refused.value)
    assert str(refused.value).endswith(".")


def test_what_is_wished_runs_where_it_can() -> None:
    for kernel in KERNELS:
        assert choose_kernel(kernel, Site("cuda", "bfloat16", 1, H100), ALL) == Choice(kernel)
    for kernel in ("sdpa", "efficient"):
        assert choose_kernel(kernel, Site("cuda", "float32", 4, A100), NOTHING) == Choice(kernel)


PACKAGES = {
    "good": ("flash_attn", "def flash_attn_func(q, k, v, return_attn_probs=False): ...", None),
    "built for another torch": ("flash_attn", "raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol"),
    "broken otherwise": ("flash_attn", "raise AttributeError('triton has no jit')", "triton has no jit"),
    "nothing in it": ("flash_attn", "", "cannot be imported"),
    "old flash 3": ("flash_attn_interface", "def flash_attn_func(q, k, v, causal=False): ...", "return_attn_probs"),
    "sage": ("sageattention", "def sageattn(q, k, v, return_lse=False): ...", None),
}


@pytest.mark.parametrize("case", PACKAGES)
def test_packages_are_found_by_importing_them(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, text, complaint = PACKAGES[case]
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    found = find_kernels("cuda")
    kernel = next(name for name, package in found_kernels.PACKAGES.items() if package.module == module)
    assert kernel not in found.absent
    if complaint is None:
        assert kernel not in found.broken
    else:
        assert complaint in found.broken[kernel]
    assert {name for name in ("flash", "flash3", "sage") if name != kernel} <= found.absent.keys()
    sys.modules.pop(module, None)


def test_a_version_that_diffusers_refuses_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn.py").write_text(PACKAGES["good"][1])
    info = tmp_path / "flash_attn-2.5.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.5.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "2.5.0 is installed, and 2.6.3 or later is needed" in find_kernels("cuda").broken["flash"]
    assert find_kernels("cpu") == Found(), "nothing is imported for the CPU"


@pytest.mark.parametrize("name", ["sdpa", "cudnn", "efficient"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (41, 40), (7, 13)])
def test_cuda_kernels_return_a_log_sum_exp_of_every_query(
    name: KernelName, dtype: torch.dtype, queries: int, keys: int
) -> None:
    with FakeTensorMode():
        query = torch.empty(1, 4, queries, 32, dtype=dtype, device="cuda")
        key = torch.empty(1, 4, keys, 32, dtype=dtype, device="cuda")
        out, log_sum_exp = kernel_over_ranks(name, query.device, dtype)(query, key, key)
    assert out.shape == query.shape
    assert log_sum_exp is not None
    assert log_sum_exp.shape == (1, 4, queries), "a ring merges chunks by it, query by query"
    assert log_sum_exp.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [
        ("sdpa", torch.float32, "SDPA_EFFICIENT"),
        ("sdpa", torch.bfloat16, "SDPA_FLASH"),
        ("efficient", torch.bfloat16, "SDPA_EFFICIENT"),
        ("cudnn", torch.bfloat16, "CUDNN"),
        ("flash", torch.bfloat16, "FLASH"),
        ("flash3", torch.bfloat16, "FLASH_3"),
        ("sage", torch.bfloat16, "SAGE"),
    ],
)
def test_the_chosen_kernel_is_called(
    monkeypatch: pytest.MonkeyPatch, name: KernelName, dtype: torch.dtype, kind: str
) -> None:
    called = []
    registry = {
        k: lambda *_, k=k, **__: called.append(k.name) or (None, torch.zeros(1)) for k in xdit.AttentionBackendType
    }
    monkeypatch.setattr(xdit, "ATTENTION_FUNCTION_REGISTRY", registry)
    with FakeTensorMode():
        query = torch.empty(1, 1, 1, 8, dtype=dtype, device="cuda")
        kernel_over_ranks(name, query.device, dtype)(query, query, query)
    assert called == [kind]


def exact(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return scores.softmax(dim=-1) @ value, scores.logsumexp(dim=-1)


def raises(*_: Tensor) -> tuple[Tensor, Tensor]:
    raise NameError("name 'flash_attn_func_2' is not defined")


WRONG: dict[str, tuple[Callable[..., tuple[Tensor, Tensor | None]], str]] = {
    "zeros": (lambda *x: (exact(*x)[0], torch.zeros_like(exact(*x)[1])), "log-sum-exp is wrong by"),
    "base 2": (lambda *x: (exact(*x)[0], exact(*x)[1] / 0.6931), "log-sum-exp is wrong by"),
    "a little off": (lambda *x: (exact(*x)[0], exact(*x)[1] + 2e-3), "log-sum-exp is wrong by 2.0e-03"),
    "of keys": (lambda *x: (exact(*x)[0], exact(*x)[1][:, :, :61]), "shape [1, 2, 61]"),
    "none": (lambda *x: (exact(*x)[0], None), "gives no log-sum-exp"),
    "nan": (lambda *x: (exact(*x)[0], exact(*x)[1] * float("nan")), "log-sum-exp is wrong by nan"),
    "wrong scale": (lambda *x: exact(x[0] * 2, *x[1:]), "results are wrong"),
    "raises": (raises, "NameError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_kernel_is_found(case: str) -> None:
    kernel, words = WRONG[case]
    assert words in (complaint_about_results(kernel, 16, CPU, torch.float32, True) or "")
    harmless = complaint_about_results(kernel, 16, CPU, torch.float32, False)
    assert (harmless is None) == (case not in ("wrong scale", "raises")), "without a ring nothing reads it"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cpu_kernel_is_right(dtype: torch.dtype) -> None:
    assert complaint_about_results(kernel_over_ranks("sdpa", CPU, dtype), 128, CPU, dtype, True) is None
    assert complaint_about_results(exact, 16, CPU, torch.float32, True) is None
