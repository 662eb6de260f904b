"""Merged attention in Triton, emulated: parts that saw nothing, gradients of both inputs."""

import functools

import pytest
import torch

from kernels.errors import Unsupported
from kernels.merge_attention import merge_attention
from kernels.tolerance import check, poisoned


def draw(parts, n, v):
    """Some parts have seen no key; of one row none has."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(parts, 2, 3, n, v, generator=generator, dtype=torch.float64)
    lses = 3 * torch.randn(parts, 2, 3, n, generator=generator, dtype=torch.float64)
    hidden = torch.rand(lses.shape, generator=generator) < 0.2
    hidden[:, 0, 0, 0] = True
    return {"outputs": outputs, "lses": lses.masked_fill(hidden, -torch.inf)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "parts,n,v", [(1, 1, 5), (2, 2, 3), (3, 63, 16), (2, 20, 130), (2, 100, 7), (3, 257, 4)]
)
def test_close_to_the_truth(parts, n, v, dtype):
    pair = (functools.partial(merge_attention, backend=b) for b in ("triton", "reference"))
    with poisoned():
        check(*pair, draw(parts, n, v), dtype=dtype)


def test_every_configuration(in_other_configurations):
    def merged():
        with poisoned():
            check(*pair, draw(2, 50, 16), dtype=torch.float32)

    pair = [functools.partial(merge_attention, backend=b) for b in ("triton", "reference")]
    in_other_configurations(merged)


def test_inputs_need_not_be_contiguous():
    x, results = {name: t.float() for name, t in draw(2, 6, 4).items()}, []
    for inputs in (x, {name: t.mT.contiguous().mT for name, t in x.items()}):
        leaves = [t.requires_grad_() for t in inputs.values()]
        y, lse = merge_attention(*leaves, backend="triton")
        # what comes back is not contiguous either: one number, everywhere
        found = torch.autograd.grad(y.sum() + lse.exp().sum(), leaves)
        results.append((y, lse, *found))
    assert not any(t.is_contiguous() for t in leaves)
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_heads_may_be_innermost():
    x = {name: t.float() for name, t in draw(2, 6, 4).items()}
    inner = [t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in x["outputs"]]
    found = merge_attention(inner, list(x["lses"]), backend="triton")
    wanted = merge_attention(list(x["outputs"]), list(x["lses"]), backend="triton")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_part_that_has_seen_nothing_is_not_looked_at():
    x = {name: t.float() for name, t in draw(3, 6, 4).items()}
    x["lses"][1], x["outputs"][1] = -torch.inf, torch.nan
    x = {name: t.requires_grad_() for name, t in x.items()}
    y, lse = merge_attention(**x, backend="triton")
    wanted = merge_attention(x["outputs"][[0, 2]], x["lses"][[0, 2]], backend="reference")
    torch.testing.assert_close((y, lse), wanted)
    for grad in torch.autograd.grad((y, lse), list(x.values()), (y, torch.ones_like(lse))):
        assert grad.isfinite().all() and (grad[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_log_sum_exps_of_ten_thousand(dtype):
    """Gradients come from a log-sum-exp in fp32, whose rounding at that size is 1e-3."""
    x = draw(4, 9, 6)
    x["lses"] = (x["lses"] * 4e3).clamp(-1e4, 1e4)
    x, results = {name: t.to(dtype) for name, t in x.items()}, []
    for backend, wide in (("triton", dtype), ("reference", torch.float64)):
        leaves = {name: t.to(wide).requires_grad_() for name, t in x.items()}
        with poisoned():
            y, lse = merge_attention(**leaves, backend=backend)
            found = torch.autograd.grad((y, lse), list(leaves.values()), (y.detach(), lse.sign()))
        results.append([t.double() for t in (y, lse, *found)])
    eps = torch.finfo(dtype).eps
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2 * eps, atol=max(4e-3, 16 * eps))


def test_nan_does_not_become_zero():
    x = {name: t.float().nan_to_num(neginf=-4) for name, t in draw(2, 4, 3).items()}
    x["outputs"][0, 0, 0, 1] = torch.nan
    x["lses"][1, 0, 0, 3] = torch.nan
    y, lse = merge_attention(**x, backend="triton")
    assert y[0, 0, [1, 3]].isnan().all() and lse[0, 0, 3].isnan()
    assert y[0, 0, 2].isfinite().all()


def test_refusals():
    with pytest.raises(Unsupported, match="no fp64"):
        merge_attention(**draw(2, 3, 4), backend="triton")
    wide = {name: t.float() for name, t in draw(2, 3, 513).items()}
    with pytest.raises(Unsupported, match="at most 512 wide, not 513"):
        merge_attention(**wide, backend="triton")
