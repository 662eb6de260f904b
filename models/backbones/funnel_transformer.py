"""Funnel-Transformer: the sequence is halved from block to block."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.backbone import Backbone, MakeBlock
from models.card import Card
from models.norm import make_norm
from models.padding import zero_padding
from models.spec import LayerSpec


class FunnelTransformer(Backbone):
    """Blocks of layers at N, N/2, N/4, ...; the first layer of a block has pooled queries and, with
    ``pool_q_only``, keys and values of the block before.

    Dai et al. 2020, section 2.2: h' = mean of two neighbours, h = layer(Q = h', KV = h). A CLS
    vector is not pooled. Neighbours are counted from position 0 (1 behind a CLS vector); hidden
    ones do not enter a mean.

    Args:
        blocks: layers of each block; None: the depth, in up to three blocks as even as can be.
        pool_q_only: keys and values of a block's first layer are not pooled, for mixers that take
            them from another sequence; else any mixer will do.
    """

    card = Card(
        title="Funnel-Transformer: Filtering out Sequential Redundancy for Efficient Language "
        "Processing",
        authors="Dai, Lai, Yang, Le",
        year=2020,
        link="https://arxiv.org/abs/2006.03236",
        family="whole_model",
        time="N^2 d",
        memory="N d",
        causality="no",
        bidirectional=True,
        ops=("attention",),
        deviations=(
            "positions are the model's, where the paper has relative ones",
            "no decoder: features stay pooled, so tasks that label positions are refused",
        ),
    )

    def __init__(
        self,
        spec: LayerSpec,
        make_block: MakeBlock,
        *,
        blocks: list[int] | None = None,
        pool_q_only: bool = True,
    ):
        super().__init__(spec, make_block)
        if spec.causal:
            raise Unsupported(
                "FunnelTransformer pools neighbours, so it cannot be causal; choose another task"
            )
        if (spec.rotary or spec.alibi) and pool_q_only:
            raise Unsupported(
                "FunnelTransformer's pooled queries have no positions among their keys: set "
                "recipe.positions=sinusoidal, learned or none, or backbone.pool_q_only=false"
            )
        self.sizes = blocks or even_parts(spec.depth, 3)
        if min(self.sizes) < 1 or sum(self.sizes) != spec.depth:
            raise ValueError(
                f"FunnelTransformer: blocks={self.sizes} must be layers of at least 1 that sum to "
                f"the depth {spec.depth}"
            )
        self.cross = self.pool_q_only = pool_q_only
        self.skip = int(spec.cls)
        self.layers, length, layer = nn.ModuleList(), spec.max_len, 0
        for index, size in enumerate(self.sizes):
            if index:
                length = self.skip + -(-(length - self.skip) // 2)
            for _ in range(size):
                self.layers.append(make_block(replace(spec, layer=layer, max_len=length)))
                layer += 1
        self.norm = make_norm(spec.norm, spec.dim) if spec.norm_position == "pre" else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
        layers = iter(self.layers)
        for index, size in enumerate(self.sizes):
            for place in range(size):
                if index and not place:
                    before, before_mask = x, mask
                    x, mask = halved(x, mask, self.skip)
                    source = {"context": before, "context_mask": before_mask}
                    x, _ = next(layers)(x, mask, **(source if self.pool_q_only else {}))
                else:
                    x, _ = next(layers)(x, mask)
        return (x if self.norm is None else self.norm(x, mask)), mask


def even_parts(total: int, most: int) -> list[int]:
    """``total`` in at most ``most`` parts, the earlier ones larger by one where they differ."""
    count = min(total, most)
    return [total // count + (i < total % count) for i in range(count)]


def halved(
    x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"], skip: int
) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]:
    """Means of the real ones of two neighbours; the first ``skip`` positions stay."""
    kept, kept_mask = x[:, :skip], mask[:, :skip]
    x, mask = zero_padding(x[:, skip:], mask[:, skip:]), mask[:, skip:]
    fill = x.shape[1] % 2
    pairs = F.pad(x, (0, 0, 0, fill)).unflatten(1, (-1, 2))
    real = F.pad(mask, (0, fill)).unflatten(1, (-1, 2))
    mean = pairs.sum(2) / real.sum(2, keepdim=True).clamp(min=1).to(x.dtype)
    return torch.cat([kept, mean], dim=1), torch.cat([kept_mask, real.any(2)], dim=1)
