"""Inputs of the ops of attention: queries, keys and values, masks, cotangents, layouts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.block_sparse_attention.layout import Layout, build


def draw(
    n: int, m: int | None = None, *, batch: int = 2, heads: int = 4, key_heads: int = 2,
    k: int = 16, v: int = 20, dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:  # fmt: skip
    """Queries, keys and values of unit size."""
    m = n if m is None else m
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (heads, n, k), "k": (key_heads, m, k), "v": (key_heads, m, v)}
    return {
        name: torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


def holes(batch: int, m: int) -> Tensor:
    """A key mask with holes, whose last row is empty."""
    mask = torch.rand(batch, m, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[-1] = False
    return mask


def grads(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients along fixed normal cotangents."""
    generator = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, inputs, cotangents)


def on(backend: str, **fixed: Any) -> Callable[..., Any]:
    """``attention`` of one backend, bias, table and slopes as tensors among its arguments."""

    def call(q, k, v, bias=None, relative=None, alibi=None, key_mask=None, **kwargs):
        bend = {n: x for n, x in fixed.items() if n in ("soft_cap", "activation")}
        score = Score(bias, relative, alibi, **bend)
        rest = {n: x for n, x in fixed.items() if n not in bend}
        torch.manual_seed(0)
        return attention(q, k, v, key_mask=key_mask, score=score, backend=backend, **rest, **kwargs)

    return call


def random_layout(n: int, m: int, block: int, heads: int = 1, seed: int = 3) -> Layout:
    """Some blocks, and in them some pairs; some lists and rows are empty."""
    generator = torch.Generator().manual_seed(seed)
    count = (-(-n // block), -(-m // block))
    blocks = torch.rand(heads, *count, generator=generator) < 0.4
    blocks[:, count[0] // 2] = False
    seen = torch.rand(heads, count[0] * block, count[1] * block, generator=generator) < 0.5
    seen[:, 1] = False
    return build(n, m, block, blocks, lambda h, i, j: seen[h, i, j] | (h + i // block) % 2 == 1)
