"""From features ``(B, N, D)`` to logits: pooling over positions, then a small network."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

POOLINGS = ("mean", "mean_all", "mean_zero", "cls", "first")
HEADS = ("linear", "mlp", "mlp3")
PAIRINGS = ("nli", "concat")


def pool(x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], kind: str) -> Float[Tensor, "B D"]:
    """One vector a sequence.

    mean: over real positions. mean_all: over all positions, padding included (LRA's MEAN).
    mean_zero: the sum over real positions, divided by the number of all (Nystromformer, which
    zeroes the others before its mean). cls and first: position 0, which is the CLS vector where
    there is one (LRA's dual encoder has none and takes the first byte).
    """
    if kind == "mean":
        weight = mask.to(x.dtype)[..., None]
        return (x.masked_fill(~mask[..., None], 0)).sum(1) / weight.sum(1).clamp(min=1)
    if kind == "mean_all":
        return x.mean(1)
    if kind == "mean_zero":
        return x.masked_fill(~mask[..., None], 0).mean(1)
    if kind in ("cls", "first"):
        return x[:, 0]
    raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got '{kind}'")


def network(kind: str, inputs: int, hidden: int, classes: int) -> nn.Module:
    """linear: one map. mlp: Dense(hidden), ReLU, Dense(classes), as in LRA's classifier. mlp3:
    Dense(hidden), ReLU, Dense(hidden / 2), ReLU, Dense(classes), as in its classifier of pairs."""
    if kind == "linear":
        return nn.Linear(inputs, classes)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    if kind == "mlp3":
        half = max(hidden // 2, 1)
        return nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, half), nn.ReLU(),
            nn.Linear(half, classes),
        )  # fmt: skip
    raise ValueError(f"head must be one of {', '.join(HEADS)}, got '{kind}'")


class ClassifyHead(nn.Module):
    """One label a sequence."""

    def __init__(self, dim: int, *, classes: int, kind: str, hidden: int, pooling: str):
        super().__init__()
        self.pooling = pooling
        self.network = network(kind, dim, hidden, classes)

    def forward(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B C"]:
        return self.network(pool(x, mask, self.pooling))


class MatchHead(nn.Module):
    """One label for two sequences, folded into the batch as rows 2b and 2b+1.

    pairing nli: [a, b, a*b, a-b] (LRA eq. 1); concat: [a, b] (what LRA's code does).
    """

    def __init__(
        self, dim: int, *, classes: int, kind: str, hidden: int, pooling: str, pairing: str
    ):
        super().__init__()
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got '{pairing}'")
        self.pooling, self.pairing = pooling, pairing
        self.network = network(kind, dim * (4 if pairing == "nli" else 2), hidden, classes)

    def forward(
        self, x: Float[Tensor, "B2 N D"], mask: Bool[Tensor, "B2 N"]
    ) -> Float[Tensor, "B C"]:
        a, b = pool(x, mask, self.pooling).unflatten(0, (-1, 2)).unbind(1)
        parts = [a, b, a * b, a - b] if self.pairing == "nli" else [a, b]
        return self.network(torch.cat(parts, dim=-1))


class TokenHead(nn.Module):
    """A label for each position."""

    def __init__(self, dim: int, *, classes: int):
        super().__init__()
        self.network = nn.Linear(dim, classes)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "B N C"]:
        return self.network(x)
