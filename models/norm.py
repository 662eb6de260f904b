"""Normalisations with one call, ``norm(x, mask)``; padding never enters a statistic.

layer: Ba et al. 2016 (1607.06450); rms: Zhang & Sennrich 2019 (1910.07467); scale: Nguyen & Salazar
2019 (1910.05895), one learned length for the whole vector; batch: Ioffe & Szegedy 2015 (1502.03167)
over all real tokens of the batch.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = ("layer", "rms", "scale", "batch")


class LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class RMSNorm(nn.RMSNorm):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class ScaleNorm(nn.Module):
    """g * x / max(|x|, eps), with one scalar g = sqrt(D) at the start."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(dim) ** 0.5))
        self.eps = eps

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.gain * F.normalize(x, dim=-1, eps=self.eps)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the real tokens of a batch ``(B, N, D)``."""

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        if not self.training:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)
        weight = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        count = weight.sum().clamp(min=1)
        mean = (x * weight).sum((0, 1)) / count
        variance = ((x - mean).square() * weight).sum((0, 1)) / count
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            assert self.running_mean is not None and self.running_var is not None
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


def make_norm(kind: str, dim: int) -> nn.Module:
    """The normalisation of that name, for width ``dim``."""
    makers = {"layer": LayerNorm, "rms": RMSNorm, "scale": ScaleNorm, "batch": BatchNorm}
    if kind not in makers:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got '{kind}'")
    return makers[kind](dim)
