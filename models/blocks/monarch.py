"""Monarch Mixer's block: any mixer, then a feed-forward network with block-diagonal matrices."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.block import MakeMixer
from models.blocks.residual import ACTIVATIONS, ResidualBlock
from models.spec import LayerSpec


class BlockDiagonalLinear(nn.Module):
    """A linear map whose matrix is block-diagonal: ``blocks`` maps side by side, and a bias."""

    def __init__(self, features: int, out: int, blocks: int):
        super().__init__()
        if blocks < 1 or features % blocks or out % blocks:
            raise ValueError(f"nblocks={blocks} must divide the widths {features} and {out}")
        bound = (features // blocks) ** -0.5
        size = (blocks, features // blocks, out // blocks)
        self.weight = nn.Parameter(torch.empty(size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        parts = x.unflatten(-1, (len(self.weight), -1))
        return torch.einsum("...gi,gio->...go", parts, self.weight).flatten(-2) + self.bias


class MonarchBlock(ResidualBlock):
    """The default block with block-diagonal matrices in its feed-forward network.

    Fu et al. 2023 (arXiv 2310.12109), section 4.

    Args:
        ffn: whether a feed-forward network follows the mixer; None: unless the mixer replaces it.
        nblocks: blocks of each matrix; 1 is the usual network.
    """

    def __init__(
        self, spec: LayerSpec, make_mixer: MakeMixer, *, ffn: bool | None = None, nblocks: int = 4
    ):
        self.nblocks = nblocks
        super().__init__(spec, make_mixer, ffn=ffn)

    def feed_forward(self, spec: LayerSpec) -> nn.Module:
        return nn.Sequential(
            BlockDiagonalLinear(spec.dim, spec.ffn_dim, self.nblocks),
            ACTIVATIONS[spec.activation](),
            nn.Dropout(spec.dropout),
            BlockDiagonalLinear(spec.ffn_dim, spec.dim, self.nblocks),
        )
