"""The common encoder: a stack of blocks, and a last norm where the blocks are pre-norm."""

from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.backbone import Backbone, MakeBlock
from models.norm import make_norm
from models.spec import LayerSpec


class Encoder(Backbone):
    """``depth`` blocks one after the other; a carry goes from block to block."""

    def __init__(self, spec: LayerSpec, make_block: MakeBlock):
        super().__init__(spec, make_block)
        self.blocks = nn.ModuleList(
            make_block(replace(spec, layer=layer)) for layer in range(spec.depth)
        )
        self.norm = make_norm(spec.norm, spec.dim) if spec.norm_position == "pre" else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        carry: Any = None
        for block in self.blocks:
            x, carry = block(x, mask, carry)
        return (x if self.norm is None else self.norm(x, mask)), mask
