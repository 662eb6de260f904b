"""The truth: the formula as it stands, one matrix at a time."""

import torch
from torch import Tensor


def run(a: Tensor, *, iterations: int) -> Tensor:
    matrices = a.reshape(-1, *a.shape[-2:])
    return torch.stack([_inverse(x, iterations) for x in matrices]).reshape(a.shape)


def _inverse(a: Tensor, iterations: int) -> Tensor:
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.T / (a.abs().sum(0).max() * a.abs().sum(1).max())
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z
