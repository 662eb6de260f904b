"""What turns a task's input into vectors: tokens or scalars, positions, an optional CLS vector."""

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.padding import zero_padding

POSITIONS = ("sinusoidal", "learned", "rope", "alibi", "none")


def sinusoids(length: int, dim: int) -> Float[Tensor, "N D"]:
    """Positions of Vaswani et al. 2017, section 3.5: sines in even channels, cosines in odd."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    pair = torch.arange(0, dim, 2, dtype=torch.float64)
    angle = position * torch.exp(-math.log(10000.0) * pair / dim)
    table = torch.zeros(length, dim, dtype=torch.float64)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : dim // 2]
    return table.float()


class Embedding(nn.Module):
    """Tokens ``(B, N)`` or scalars ``(B, N, F)`` to ``(B, N, D)``, plus positions, CLS in front.

    Args:
        dim: width D.
        vocab: number of ids, or None for scalars.
        features: scalars of a position where ``vocab`` is None.
        max_len: longest input, CLS not counted.
        positions: sinusoidal or learned are added here; rope (rotary) and alibi act in the mixers;
            none.
        cls: put a learned vector, zero at the start, before the first position (LRA's code, where
            the mask of the first position hides it too; here nothing does).
        std: standard deviation of token vectors at the start.
        position_std: of learned position vectors at the start; None: ``std``.
        dropout: on the sum.
    """

    def __init__(
        self,
        dim: int,
        *,
        vocab: int | None,
        features: int | None,
        max_len: int,
        positions: str,
        cls: bool,
        std: float,
        dropout: float,
        position_std: float | None = None,
    ):
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got '{positions}'")
        self.content: nn.Module
        if vocab is not None:
            self.content = nn.Embedding(vocab, dim)
            nn.init.normal_(self.content.weight, std=std)
        else:
            assert features is not None
            self.content = nn.Linear(features, dim)
        self.tokens = vocab is not None
        self.max_len, self.cls = max_len, None
        if cls:
            self.cls = nn.Parameter(torch.zeros(dim))
        length = max_len + int(cls)
        self.learned = None
        if positions == "learned":
            spread = std if position_std is None else position_std
            self.learned = nn.Parameter(torch.randn(length, dim) * spread)
        self.fixed: Tensor | None
        fixed = sinusoids(length, dim) if positions == "sinusoidal" else None
        self.register_buffer("fixed", fixed, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Shaped[Tensor, "B N *F"], mask: Bool[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
        if x.shape[1] > self.max_len and (self.learned is not None or self.fixed is not None):
            raise Unsupported(
                f"this model has positions for {self.max_len} tokens, got {x.shape[1]}: "
                "train it at that length, or with positions=rope, alibi or none"
            )
        y = self.content(x if self.tokens else zero_padding(x, mask))
        if self.cls is not None:
            y = torch.cat([self.cls.expand(len(y), 1, -1).to(y.dtype), y], dim=1)
            mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        table = self.learned if self.learned is not None else self.fixed
        if table is not None:
            y = y + table[: y.shape[1]].to(y.dtype)
        return self.dropout(y), mask
