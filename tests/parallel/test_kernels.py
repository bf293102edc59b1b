"""The attention kernels that CUDA would run, checked for shape and choice on tensors that hold no data."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from parallel import xdit
from parallel.attention import _kernel_with_log_sum_exp


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (41, 40), (7, 13)])
def test_cuda_kernels_return_a_log_sum_exp_of_every_query(dtype: torch.dtype, queries: int, keys: int) -> None:
    with FakeTensorMode():
        query = torch.empty(1, 4, queries, 32, dtype=dtype, device="cuda")
        key = torch.empty(1, 4, keys, 32, dtype=dtype, device="cuda")
        out, log_sum_exp = _kernel_with_log_sum_exp(query, flash=False)(query, key, key)
    assert out.shape == query.shape
    assert log_sum_exp.shape == (1, 4, queries), "a ring merges chunks by it, query by query"
    assert log_sum_exp.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "flash", "installed_3", "kind"),
    [
        (torch.float32, True, True, "SDPA_EFFICIENT"),  # flash-attn has no float32
        (torch.bfloat16, False, True, "SDPA_FLASH"),
        (torch.bfloat16, True, False, "FLASH"),
        (torch.bfloat16, True, True, "FLASH_3"),
    ],
)
def test_the_best_kernel_is_taken(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, flash: bool, installed_3: bool, kind: str
) -> None:
    called = []
    registry = {
        k: lambda *_, k=k, **__: called.append(k.name) or (None, torch.zeros(1)) for k in xdit.AttentionBackendType
    }
    monkeypatch.setattr(xdit, "ATTENTION_FUNCTION_REGISTRY", registry)
    monkeypatch.setitem(xdit.PACKAGES_CHECKER.packages_info, "has_flash_attn_3", installed_3)
    with FakeTensorMode():
        query = torch.empty(1, 1, 1, 8, dtype=dtype, device="cuda")
        _kernel_with_log_sum_exp(query, flash)(query, query, query)
    assert called == [kind]


def test_the_cpu_kernel_returns_the_true_log_sum_exp() -> None:
    query, key = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 9, 8)
    _, log_sum_exp = _kernel_with_log_sum_exp(query, flash=False)(query, key, key)
    expected = (query @ key.transpose(2, 3) / 8**0.5).logsumexp(dim=-1)
    torch.testing.assert_close(log_sum_exp, expected)
