"""Logits and inputs of ten thousand: right, in every dtype, gradients included."""

import functools

import pytest
import torch

from kernels.attention import attention
from kernels.block_sparse_attention import block_sparse_attention, layouts
from kernels.tolerance import check, poisoned
from tests.kernels.linear_attention_cases import arguments, call

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(n=40):
    """Products of queries and keys up to 10,000."""
    keys = drawn(2, 2, n, 4, seed=1).clamp(-1, 1)
    return {
        "q": 100 * drawn(2, 2, n, 4, seed=0).sign(), "k": 25 * keys, "v": drawn(2, 2, n, 4, seed=2)
    }  # fmt: skip


def held(op, tensors, dtype, *, backend="eager", **fixed):
    pair = (functools.partial(op, backend=b, **fixed) for b in (backend, "reference"))
    with poisoned():
        check(*pair, tensors, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal, dtype):
    held(attention, qkv(), dtype, causal=causal, scale=1.0)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_attention(causal):
    """Torch's kernel rounds otherwise than the definition: a few roundings of the largest input."""
    results = []
    for backend, dtype in (("sdpa", torch.float32), ("reference", torch.float64)):
        x = {name: t.float().to(dtype).requires_grad_() for name, t in qkv().items()}
        y = attention(**x, causal=causal, scale=1.0, backend=backend)
        results.append([y, *torch.autograd.grad(y, list(x.values()), y.detach())])
    # queries are the largest: 100
    bound = 64 * torch.finfo(torch.float32).eps * 100
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=bound)


@DTYPES
def test_block_sparse_attention(dtype):
    layout = layouts.band(40, 16, 20, 20)
    held(block_sparse_attention, qkv(), dtype, layout=layout, scale=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["both", "both-relu", "causal", "scalar", "channel-sums"])
def test_linear_attention(case, dtype):
    """fp16 ends at 65,504, below sums of such inputs."""
    tensors, rest = arguments(case, 100)
    tensors |= {name: 1e4 * tensors[name].clamp(-1, 1) for name in "qkv"}
    pair = (functools.partial(call, backend) for backend in ("eager", "reference"))
    with poisoned():
        check(*pair, tensors, dtype=dtype, **rest)
