"""Transformer-XL: segments that see what the layers said of the segments before."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.backbone import Backbone, MakeBlock
from models.card import Card
from models.mixers.exact.relative_attention import RelativeAttention
from models.norm import make_norm
from models.padding import zero_padding
from models.spec import LayerSpec


class TransformerXL(Backbone):
    """Segment by segment: h_n = layer(h_{n-1}; keys and values of [memory ; h_{n-1}]), memory the
    last ``mem_len`` inputs of the layer from segments before, without gradient.

    Dai et al. 2019, section 3.2 and 3.3. It is causal. The preset's mixer has the paper's relative
    positions, whose u and v all layers share; any mixer that takes keys and values from elsewhere
    can stand in its place.

    Args:
        seg_len: positions of a segment.
        mem_len: positions remembered.
    """

    card = Card(
        title="Transformer-XL: Attentive Language Models beyond a Fixed-Length Context",
        authors="Dai, Yang, Yang, Carbonell, Le, Salakhutdinov",
        year=2019,
        link="https://arxiv.org/abs/1901.02860",
        family="whole_model",
        time="N seg_len d + N mem_len d",
        memory="N d",
        causality="native",
        bidirectional=False,
        ops=("attention",),
        smooth={"mem_len": 0},
        deviations=(
            "no gradient enters the memory, so the whole gradient is that of each segment alone",
            "the recipe's positions are added to the embedding besides; the paper has none there",
            "the memory is empty before each input, and decoding step by step is not offered",
        ),
    )
    cross = True

    def __init__(
        self,
        spec: LayerSpec,
        make_block: MakeBlock,
        *,
        seg_len: int = 150,
        mem_len: int = 150,
    ):
        super().__init__(spec, make_block)
        if not spec.causal:
            raise Unsupported("TransformerXL is causal only; build it with causal=true")
        if seg_len < 1 or mem_len < 0:
            raise ValueError("TransformerXL: seg_len must be at least 1, mem_len at least 0")
        self.seg_len, self.mem_len = seg_len, mem_len
        layer = replace(spec, max_len=min(spec.max_len, seg_len + mem_len))
        self.layers = nn.ModuleList(make_block(replace(layer, layer=i)) for i in range(spec.depth))
        relative = [m for m in self.modules() if isinstance(m, RelativeAttention)]
        for mixer in relative[1:]:
            # one u and one v for all layers
            mixer.content_bias = relative[0].content_bias
            mixer.distance_bias = relative[0].distance_bias
        self.norm = make_norm(spec.norm, spec.dim) if spec.norm_position == "pre" else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        x = zero_padding(x, mask)
        memories = [x[:, :0]] * len(self.layers)
        seen, outputs = mask[:, :0], []
        for h, real in zip(x.split(self.seg_len, 1), mask.split(self.seg_len, 1), strict=True):
            around = torch.cat([seen, real], dim=1)
            for i, layer in enumerate(self.layers):
                source = torch.cat([memories[i], h], dim=1)
                memories[i] = self._kept(source).detach()
                h, _ = layer(h, real, context=source, context_mask=around)
            seen = self._kept(around)
            outputs.append(h)
        y = torch.cat(outputs, dim=1)
        return (y if self.norm is None else self.norm(y, mask)), mask

    def _kept(self, x: Tensor) -> Tensor:
        """The last ``mem_len`` positions."""
        return x[:, max(x.shape[1] - self.mem_len, 0) :]
