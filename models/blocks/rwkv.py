"""RWKV-4's block: any mixer, then channel mixing in the place of the feed-forward network."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks.residual import ResidualBlock
from models.spec import LayerSpec
from models.token_shift import token_before


class ChannelMixing(nn.Module):
    """``sigmoid(R r) * (V relu(K k)^2)``, r and k mixtures of the present token and the one before.

    Peng et al. 2023 (arXiv 2305.13048), eq. 18 and 12-13. It sees one token to the left.
    R and V start at zero, K orthogonal (appendix E and the authors' code).
    """

    def __init__(self, spec: LayerSpec):
        super().__init__()
        early = 1 - spec.layer / spec.depth
        share = torch.arange(spec.dim) / spec.dim
        self.mix_key = nn.Parameter(share**early)
        self.mix_receptance = nn.Parameter(share**early)
        self.key = nn.Linear(spec.dim, spec.ffn_dim, bias=False)
        self.receptance = nn.Linear(spec.dim, spec.dim, bias=False)
        self.value = nn.Linear(spec.ffn_dim, spec.dim, bias=False)
        nn.init.orthogonal_(self.key.weight, gain=max(spec.ffn_dim / spec.dim, 1) ** 0.5)
        for linear in (self.receptance, self.value):
            nn.init.zeros_(linear.weight)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(
        self, x: Float[Tensor, "B N D"], last: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """y; ``last`` is the token before x, zeros if None."""
        before = token_before(x, last)
        k = self.key(before.lerp(x, self.mix_key.to(x.dtype)))
        r = self.receptance(before.lerp(x, self.mix_receptance.to(x.dtype)))
        return r.sigmoid() * self.value(self.dropout(k.relu().square()))


class RWKVBlock(ResidualBlock):
    """The default block with channel mixing."""

    def feed_forward(self, spec: LayerSpec) -> nn.Module:
        return ChannelMixing(spec)

    def ffn_state(self, batch: int) -> Float[Tensor, "B D"]:
        """The token before the first one."""
        return next(self.parameters()).new_zeros(batch, self.spec.dim)

    def ffn_step(self, x: Float[Tensor, "B 1 D"], state: Any) -> tuple[Float[Tensor, "B 1 D"], Any]:
        assert self.ffn is not None
        return self.ffn(x, state), x[:, 0]
