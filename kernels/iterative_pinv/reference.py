"""The iteration as it is written, identity matrices included."""

import torch
from torch import Tensor


def run(a: Tensor, *, iterations: int) -> Tensor:
    eye = torch.eye(a.shape[-2], dtype=a.dtype, device=a.device)
    column_sum = a.abs().sum(dim=-2).amax(dim=-1)
    row_sum = a.abs().sum(dim=-1).amax(dim=-1)
    # the inverse of a zero matrix is zero
    norms = (column_sum * row_sum).clamp_min(torch.finfo(a.dtype).tiny)
    z = a.transpose(-1, -2) / norms[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z
