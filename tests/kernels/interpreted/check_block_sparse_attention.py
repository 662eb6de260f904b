"""Block-sparse attention in Triton, emulated: random layouts, gradients and log-sum-exps."""

import functools

import pytest
import torch

from kernels.block_sparse_attention import block_sparse_attention, layouts
from kernels.block_sparse_attention.layout import build
from kernels.errors import Unsupported
from kernels.tolerance import check, poisoned


def draw(n, m, *, heads=2, key_heads=1, k=16, v=20):
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (heads, n, k), "k": (key_heads, m, k), "v": (key_heads, m, v)}
    return {
        name: torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def random_layout(n, m, block, heads=1):
    """Some blocks, and in them some pairs; some lists and rows are empty."""
    generator = torch.Generator().manual_seed(3)
    count = (-(-n // block), -(-m // block))
    blocks = torch.rand(heads, *count, generator=generator) < 0.5
    blocks[:, count[0] // 2] = False
    blocks[:, 0, 0] = True
    seen = torch.rand(heads, count[0] * block, count[1] * block, generator=generator) < 0.5
    seen[:, 1] = False
    return build(n, m, block, blocks, lambda h, i, j: seen[h, i, j] | (h + i // block) % 2 == 1)


def held(x, layout, dtype=torch.float32, **fixed):
    pair = (
        functools.partial(
            block_sparse_attention, layout=layout, return_lse=True, backend=b, **fixed
        )
        for b in ("triton", "reference")
    )
    with poisoned():
        check(*pair, x, dtype=dtype)


@pytest.mark.parametrize(
    "n,m,block,heads",
    [
        (1, 1, 16, 1), (2, 2, 16, 1), (63, 40, 16, 4), (100, 70, 32, 2), (130, 150, 128, 1),
        (257, 257, 64, 1), (257, 100, 256, 1),
    ],
    ids=str,
)  # fmt: skip
def test_close_to_the_truth(n, m, block, heads):
    """One list for all, one a head of every example, one a head; a block of several tiles."""
    held(draw(n, m), random_layout(n, m, block, heads))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_with_a_key_mask(dtype):
    mask = torch.rand(2, 70, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[-1] = False
    x = {**draw(70, 70), "key_mask": mask}
    held(x, layouts.bigbird(70, 32, random_blocks=1, heads=2), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_logits_of_ten_thousand(dtype):
    """Weights are 0 or 1 then: what comes back to the scores is rounding, and stays finite."""
    x = {name: t.to(dtype) for name, t in draw(40, 40, key_heads=2, k=4, v=4).items()}
    x["q"] = (x["q"].double() * 1e4).to(dtype)
    layout, results = layouts.band(40, 16, 20, 20), []
    for backend, wide in (("triton", dtype), ("reference", torch.float64)):
        leaves = {name: t.to(wide).requires_grad_() for name, t in x.items()}
        with poisoned():
            y, lse = block_sparse_attention(
                **leaves, layout=layout, return_lse=True, backend=backend
            )
            found = torch.autograd.grad((y, lse), list(leaves.values()), (y.detach(), lse.sign()))
        results.append([t.double() for t in (y, lse, *found)])
    assert all(t.isfinite().all() for t in results[0])
    eps = torch.finfo(dtype).eps
    for got, wanted, size in zip(*results, (4, 4e4, 4, 4e4, 4), strict=True):
        torch.testing.assert_close(got, wanted, rtol=4 * eps, atol=4 * eps * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_configuration(in_other_configurations, dtype):
    """In blocks large enough for tiles of all sizes."""
    x = {name: t[:1, :1] for name, t in draw(20, 70).items()}
    in_other_configurations(lambda: held(x, random_layout(20, 70, 64), dtype))


def test_inputs_need_not_be_contiguous():
    x = {name: t.float() for name, t in draw(20, 20, v=16).items()}
    strided = {name: t.mT.contiguous().mT for name, t in x.items()}
    layout, results = layouts.band(20, 16, 9, 9), []
    for inputs in (x, strided):
        leaves = [t.requires_grad_() for t in inputs.values()]
        y = block_sparse_attention(*leaves, layout=layout, backend="triton")
        # what comes back is not contiguous either: one number, everywhere
        results.append((y, *torch.autograd.grad(y.sum(), leaves)))
    assert not any(t.is_contiguous() for t in strided.values())
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_causal_blocks():
    held(draw(70, 70), layouts.strided(70, 32, 64))


def test_wide_heads():
    held(draw(40, 40, k=128, v=128), layouts.band(40, 32, 20, 20))


def test_refusals():
    x = {name: t.float() for name, t in draw(20, 20).items()}
    with pytest.raises(Unsupported, match="positions, not 8"):
        block_sparse_attention(**x, layout=layouts.band(20, 8, 1, 1), backend="triton")
    with pytest.raises(Unsupported, match="no fp64"):
        block_sparse_attention(**draw(20, 20), layout=layouts.band(20, 16, 1, 1), backend="triton")
