"""Hyena's implicit filters: a small sine network of the position, under a decaying window."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.own_rate import own_rate

# the window falls to this share of itself over a channel's part of the sequence
TARGET = 1e-2


class ImplicitFilter(nn.Module):
    """h(t) = exp(-alpha_c t) FFN([t, cos, -sin of 2 pi f t]), t from 0 to 1 over ``max_len`` taps.

    Poli et al. 2023 (arXiv 2302.10866), section 3.3 and appendix D.3. Bands are evenly spaced
    between 0 and ``(emb_dim - 1) / 2 - 1`` periods; alpha of channels is evenly spaced, so that the
    window reaches 1 % within ``fast_decay`` .. ``slow_decay`` of the length.

    Args:
        channels: C filters.
        max_len: taps that t = 1 stands for.
        width: of the network.
        emb_dim: odd number of position features.
        sin_freq: frequency of its sines at the start (learned).
        inner_layers: hidden layers besides the first.
        fast_decay, slow_decay: shares of the length.
        lr: learning rate of its parameters, which have no weight decay; None: as all others.
    """

    def __init__(
        self,
        channels: int,
        *,
        max_len: int,
        width: int,
        emb_dim: int,
        sin_freq: float = 1.0,
        inner_layers: int = 2,
        fast_decay: float = 0.3,
        slow_decay: float = 1.5,
        lr: float | None = None,
    ):
        super().__init__()
        if emb_dim < 3 or emb_dim % 2 == 0:
            raise ValueError(f"emb_dim must be odd and at least 3, got {emb_dim}")
        if width < 1 or inner_layers < 0:
            raise ValueError("the network needs a width of at least 1 and no fewer than 0 layers")
        self.max_len, self.bands = max_len, (emb_dim - 1) // 2
        self.layers = nn.ModuleList(
            nn.Linear(emb_dim if i == 0 else width, width) for i in range(inner_layers + 1)
        )
        self.last = nn.Linear(width, channels, bias=False)
        self.frequency = nn.Parameter(torch.full((width,), float(sin_freq)))
        own_rate(*self.parameters(), lr=lr)
        self.alpha: Tensor
        ends = (-math.log(TARGET) / slow_decay, -math.log(TARGET) / fast_decay)
        self.register_buffer("alpha", torch.linspace(*ends, channels), persistent=False)

    def forward(self, length: int) -> Float[Tensor, "C L"]:
        """The first ``length`` taps."""
        like = self.last.weight
        tap = torch.arange(length, device=like.device, dtype=torch.float64)
        t = (tap / max(self.max_len - 1, 1)).to(like.dtype)[:, None]
        bands = torch.linspace(1e-4, max(self.bands - 1, 1e-4), self.bands, dtype=torch.float64)
        angle = 2 * math.pi / self.max_len * tap[:, None] * bands.to(like.device)
        y = torch.cat([t, angle.cos().to(like.dtype), -angle.sin().to(like.dtype)], dim=-1)
        for layer in self.layers:
            y = torch.sin(self.frequency * layer(y))
        return (self.last(y) * torch.exp(-t * self.alpha.to(like.dtype))).mT
