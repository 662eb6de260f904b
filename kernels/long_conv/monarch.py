"""Convolution by Monarch FFTs: a transform of size P Q is two products with small Fourier matrices.

Order 2 of Fu et al. 2023, arXiv 2310.12109, section 3, and of FlashFFTConv (arXiv 2311.05908,
section 3): arithmetic grows as N^1.5, but all of it is matrix products. Spectra stay in the order
in which the products leave them, for a convolution multiplies two of the same order.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import pad

from kernels.long_conv.eager import on_a_ring


def run(
    u: Float[Tensor, "B D N"],
    kernel: Float[Tensor, "D L"],
    skip: Float[Tensor, " D"] | None = None,
    *,
    kernel_reverse: Float[Tensor, "D M"] | None = None,
) -> Float[Tensor, "B D N"]:
    wide, ring = on_a_ring(u, kernel, kernel_reverse)
    size, n = ring.shape[1], u.shape[2]
    spectrum = monarch_fft(pad(wide, (0, size - n))) * monarch_fft(ring)
    y = monarch_ifft(spectrum)[..., :n]
    return (y if skip is None else y + skip[:, None] * u).to(u.dtype)


def monarch_fft(x: Float[Tensor, "*batch S"]) -> Complex[Tensor, "*batch P Q"]:
    """``X[k, l] = sum_s x[s] exp(-2 pi i s (k + P l) / S)``, S = P Q: frequency k + P l."""
    p, q = factors(x.shape[-1])
    first, twiddle, second = _matrices(p, q, x)
    # position s = Q a + b: over a, then over b
    return ((first @ x.unflatten(-1, (p, q)).to(first.dtype)) * twiddle) @ second


def monarch_ifft(spectrum: Complex[Tensor, "*batch P Q"]) -> Float[Tensor, "*batch S"]:
    """The real sequence of a spectrum in the order of ``monarch_fft``."""
    p, q = spectrum.shape[-2:]
    first, twiddle, second = _matrices(p, q, spectrum.real)
    # unitary up to a factor, and symmetric: the inverse is the conjugate
    x = first.conj() @ ((spectrum @ second.conj()) * twiddle.conj())
    return x.real.flatten(-2) / (p * q)


def factors(size: int) -> tuple[int, int]:
    """P Q = size with P <= Q as near to each other as they can be."""
    p = next(p for p in range(math.isqrt(size), 0, -1) if size % p == 0)
    return p, size // p


def _matrices(p: int, q: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Fourier matrices of sizes P and Q, and exp(-2 pi i k b / S) between them, (P, Q)."""

    def roots(rows: int, columns: int, period: int) -> Tensor:
        # angles in fp64 and below one turn, whatever the precision of the product
        k = torch.arange(rows, device=like.device)[:, None]
        turns = (k * torch.arange(columns, device=like.device) % period).double() / period
        return torch.polar(torch.ones_like(turns), -2 * math.pi * turns).to(complex_dtype)

    complex_dtype = torch.complex128 if like.dtype == torch.float64 else torch.complex64
    return roots(p, p, p), roots(p, q, p * q), roots(q, q, q)
