"""Diagonal scan in Triton: launches its three passes. It computes in fp32."""

import torch
from jaxtyping import Inexact
from torch import Tensor

from kernels import triton_tools
from kernels.diagonal_scan.autograd import differentiable
from kernels.triton_tools import available

__all__ = ["available", "run", "supports"]


def supports(
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    *,
    reverse: bool = False,
    initial: Inexact[Tensor, "B D"] | None = None,
) -> str | None:
    tensors = [a, b] if initial is None else [a, b, initial]
    if any(x.dtype == torch.complex128 for x in tensors):
        return "it has no fp64"
    return next(filter(None, map(triton_tools.supports_device, tensors)), None)


def run(
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    *,
    reverse: bool = False,
    initial: Inexact[Tensor, "B D"] | None = None,
) -> Inexact[Tensor, "B N D"]:
    return differentiable(_scan, a, b, initial, reverse)


def _scan(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    import triton

    from kernels.diagonal_scan.triton_kernels import CHUNK, carries_kernel, chunks_kernel

    batch, n, d = b.shape
    wide = torch.complex64 if b.is_complex() else torch.float32
    h = torch.empty(b.shape, dtype=wide, device=b.device)
    if initial is None:
        initial = h.new_zeros(batch, d)
    chunks = -(-n // CHUNK)
    ends, products, carries = (h.new_empty(batch, chunks, d) for _ in range(3))
    a, b = a.resolve_conj().expand(b.shape), b.resolve_conj()
    constants = {"CHUNK": CHUNK, "COMPLEX": b.is_complex(), "REVERSE": reverse}
    sizes = (n, d, chunks, *a.stride(), *b.stride())
    planes = [_real(x) for x in (a, b)]

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return chunks, batch, triton.cdiv(d, meta["BLOCK"])

    buffers = [_real(x) for x in (ends, products, h)]
    chunks_kernel[grid](*planes, *buffers, *sizes, STATES=False, **constants)
    carries_kernel[lambda meta: grid(meta)[1:]](
        *(_real(x) for x in (ends, products, initial.contiguous(), carries)),
        d,
        chunks,
        COMPLEX=b.is_complex(),
    )
    buffers = [_real(x) for x in (carries, products, h)]
    chunks_kernel[grid](*planes, *buffers, *sizes, STATES=True, **constants)
    return h


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
