"""Rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 15): a rotation of each pair of channels
by an angle that grows with the position, so that q_i . k_j depends on i - j only."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Rotary(nn.Module):
    """Rotates head vectors; an odd last channel is left alone.

    Pairs are channels c and c + K/2. The paper's are neighbours, 2c and 2c + 1: the same rotation
    of other channels, which the maps to queries and keys choose.
    """

    def __init__(self, head_dim: int, base: float = 10000.0):
        super().__init__()
        self.pairs = head_dim // 2
        frequency = base ** (-torch.arange(self.pairs, dtype=torch.float64) / max(self.pairs, 1))
        self.frequency: Tensor
        self.register_buffer("frequency", frequency.float(), persistent=False)

    def forward(
        self, x: Float[Tensor, "B H N K"], start: int = 0, step: int = 1
    ) -> Float[Tensor, "B H N K"]:
        """x rotated by its N positions ``start, start + step, ...``."""
        end = start + step * x.shape[2]
        position = torch.arange(start, end, step, device=x.device, dtype=torch.float32)
        angle = position[:, None] * self.frequency.float()
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b, rest = x.split([self.pairs, self.pairs, x.shape[-1] - 2 * self.pairs], dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)
