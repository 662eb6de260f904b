"""Cauchy sums in torch, some poles and nodes at a time: the fractions of a tile make a real matrix,
and the sums and their gradients are products with it.

With ``P = 1 / (z - w)`` and ``Q = 1 / (z - conj w)``, K is linear in the parts of v:

    K = Re v (P + Q) + i Im v (P - Q)

Nothing of size J L is kept; the backward pass makes the fractions again. It can be differentiated
once. Legend: X systems (leading dimensions of w), R sums with the poles of one system.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# fractions of a tile (they should fit the cache), and the most nodes it has
FRACTIONS, NODES = 1 << 17, 1024


def run(
    v: Complex[Tensor, "*V J"], z: Complex[Tensor, " L"], w: Complex[Tensor, "*W J"]
) -> Complex[Tensor, "*K L"]:
    lead = torch.broadcast_shapes(v.shape[:-1], w.shape[:-1])
    # leading dimensions that w lacks, or has 1 of, share its fractions
    while w.ndim > 1 and w.shape[0] == 1:
        w = w[0]
    inner = lead[len(lead) - w.ndim + 1 :]
    systems = math.prod(inner)
    w = w.expand(*inner, -1).reshape(systems, -1)
    v = v.expand(*lead, -1).reshape(-1, *w.shape)
    return _Cauchy.apply(v.transpose(0, 1), z, w).transpose(0, 1).reshape(*lead, -1)


def _tiles(w: Tensor, z: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of systems and of nodes."""
    systems, states = w.shape
    nodes = min(len(z), NODES, max(1, FRACTIONS // states))
    some = max(1, FRACTIONS // (states * nodes))
    for first in range(0, systems, some):
        for node in range(0, len(z), nodes):
            yield slice(first, first + some), slice(node, node + nodes)


def _reciprocal(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    size = (re * re).addcmul_(im, im)
    return re / size, (im / size).neg_()


def _fractions(z: Complex[Tensor, " l"], w: Complex[Tensor, "x J"]) -> tuple[Tensor, ...]:
    """Parts of P and of Q, ``(x, J, l)`` each."""
    re = z.real - w.real[..., None]
    im = w.imag[..., None]
    return *_reciprocal(re, z.imag - im), *_reciprocal(re, z.imag + im)


def _matrix(p_re: Tensor, p_im: Tensor, q_re: Tensor, q_im: Tensor) -> Float[Tensor, "x A B"]:
    """From (Re v, Im v) to (Re K, Im K)."""
    top = torch.cat([p_re + q_re, p_im + q_im], dim=-1)
    return torch.cat([top, torch.cat([q_im - p_im, p_re - q_re], dim=-1)], dim=-2)


def _squared(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    return re * re - im * im, 2 * re * im


def _parts(x: Complex[Tensor, "x R K"]) -> Float[Tensor, "x R A"]:
    return torch.cat([x.real, x.imag], dim=-1)


def _whole(x: Float[Tensor, "x R A"]) -> Complex[Tensor, "x R K"]:
    return torch.complex(*x.chunk(2, dim=-1))


class _Cauchy(torch.autograd.Function):
    """K ``(X, R, L)`` of v ``(X, R, J)``, z ``(L,)`` and w ``(X, J)``."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, z: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(v, z, w)
        kernel = v.new_empty(*v.shape[:2], len(z))
        with torch.autocast(v.device.type, enabled=False):
            for some, nodes in _tiles(w, z):
                matrix = _matrix(*_fractions(z[nodes], w[some]))
                kernel[some, :, nodes] = _whole(_parts(v[some]) @ matrix)
        return kernel

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, z, w = ctx.saved_tensors
        of_v, of_z, of_w = ctx.needs_input_grad
        grad_v, grad_z, grad_w = torch.zeros_like(v), torch.zeros_like(z), torch.zeros_like(w)
        with torch.autocast(v.device.type, enabled=False):
            for some, nodes in _tiles(w, z):
                p_re, p_im, q_re, q_im = _fractions(z[nodes], w[some])
                g = grad[some, :, nodes]
                if of_v:
                    grad_v[some] += _whole(_parts(g) @ _matrix(p_re, p_im, q_re, q_im).mT)
                if of_z or of_w:
                    # dP/dw = P^2 = -dP/dz
                    matrix = _matrix(*_squared(p_re, p_im), *_squared(q_re, q_im))
                if of_w:
                    share = _whole(_parts(g) @ matrix.mT)
                    grad_w[some] += (v[some].conj() * share).sum(dim=1)
                if of_z:
                    slope = _whole(_parts(v[some]) @ matrix)
                    grad_z[nodes] -= (slope.conj() * g).sum(dim=(0, 1))
        return grad_v, grad_z, grad_w
