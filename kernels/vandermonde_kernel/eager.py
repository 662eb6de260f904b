"""Two-level Vandermonde product: ``a^(p Q + r) = a^(p Q) a^r``, so the kernel is a matrix product.

L1 + L2 powers of each state with ``L1 L2 >= L`` instead of L of them: memory is that of the kernel,
and most of the work is one product of ``(L1, 2n)`` and ``(2n, L2)`` real matrices.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def run(
    c: Complex[Tensor, "*C n"], log_a: Complex[Tensor, "*A n"], length: int
) -> Float[Tensor, "*K L"]:
    fine = math.isqrt(length - 1) + 1
    coarse = -(-length // fine)
    re, im = _powers(log_a, fine, 1)
    high_re, high_im = _powers(log_a, coarse, fine)
    c_re, c_im = c.real[..., None], c.imag[..., None]
    # 2 Re(x y) = 2 (Re x Re y - Im x Im y)
    left = torch.cat([c_re * high_re - c_im * high_im, -(c_re * high_im + c_im * high_re)], dim=-2)
    with torch.autocast(c.device.type, enabled=False):
        kernel = (2 * left).mT @ torch.cat([re, im], dim=-2)
    return kernel.flatten(-2)[..., :length]


def _powers(log_a: Tensor, count: int, stride: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``exp(log_a * stride * p)``, p < count: ``(..., n, count)``.

    Exponents in fp64: at l = 16384 a phase in fp32 is wrong by 1e-2.
    """
    power = torch.arange(count, device=log_a.device, dtype=torch.float64) * stride
    # -inf * 0 is not a number; e^-1e4 is 0
    size = (log_a.real.double().clamp(min=-1e4)[..., None] * power).to(log_a.real.dtype).exp()
    phase = (log_a.imag.double()[..., None] * power).remainder(2 * math.pi).to(log_a.real.dtype)
    return size * phase.cos(), size * phase.sin()
