"""Luna: attention through a short second sequence that goes from layer to layer."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.attention import attention
from kernels.errors import Unsupported
from kernels.linear_attention import linear_attention
from models.block import Block, MakeMixer
from models.blocks.residual import feed_forward
from models.card import Card
from models.norm import make_norm
from models.padding import zero_padding
from models.spec import LayerSpec


class _Projections(nn.Module):
    """Square maps by name, without bias, Xavier-initialised, and heads."""

    def __init__(self, spec: LayerSpec, *names: str):
        super().__init__()
        self.heads, self.dropout = spec.heads, spec.mixer_dropout
        self.maps = nn.ModuleDict({n: nn.Linear(spec.dim, spec.dim, bias=False) for n in names})
        for linear in self.maps.values():
            nn.init.xavier_uniform_(linear.weight)  # type: ignore[arg-type]

    def split(self, name: str, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B H N K"]:
        return self.maps[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def joined(self, y: Float[Tensor, "B H N K"]) -> Float[Tensor, "B N D"]:
        return y.transpose(1, 2).flatten(2)


class NestedAttention(_Projections):
    """Y_P = attention(P, X, X), Y_X = attention(X, Y_P, Y_P) W (eq. 5-6)."""

    def __init__(self, spec: LayerSpec, *, tie_kv: bool):
        values = [] if tie_kv else ["pack_value", "value"]
        super().__init__(spec, "pack_query", "pack_key", "query", "key", "output", *values)
        self.pack_value, self.value = ("pack_key", "key") if tie_kv else ("pack_value", "value")

    def forward(
        self, x: Float[Tensor, "B N D"], p: Float[Tensor, "B L D"], mask: Tensor | None
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B L D"]]:
        rate = self.dropout if self.training else 0.0
        packed = attention(
            self.split("pack_query", p), self.split("pack_key", x), self.split(self.pack_value, x),
            key_mask=mask, dropout_p=rate,
        )  # fmt: skip
        packed = self.joined(packed)
        y = attention(
            self.split("query", x), self.split("key", packed), self.split(self.value, packed),
            dropout_p=rate,
        )  # fmt: skip
        return self.maps["output"](self.joined(y)), packed


class CausalNestedAttention(_Projections):
    """Running means in the place of the packed sequence (eq. 8-10)."""

    def __init__(self, spec: LayerSpec, *, tie_kv: bool):
        values = [] if tie_kv else ["value"]
        super().__init__(spec, "pack_query", "pack_key", "query", "key", "output", *values)
        self.value = "key" if tie_kv else "value"

    def forward(
        self, x: Float[Tensor, "B N D"], p: Float[Tensor, "B L D"], mask: Tensor | None
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B L D"]]:
        q, k, v = (self.split(name, x) for name in ("query", "key", self.value))
        scores = self.split("pack_key", x) @ self.split("pack_query", p).mT
        # log 2 makes the softplus of a score of 0 one
        w = F.softplus(scores * k.shape[-1] ** -0.5, beta=0.6931471805599453).to(k.dtype)
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None].to(x.dtype)
        if mask is not None:
            steps = mask.cumsum(1).clamp(min=1)[:, None, :, None].to(x.dtype)

        def running(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            y, _ = linear_attention(q, k, v, causal=True, key_mask=mask, normalise=False)
            return y / steps

        weights = (running(q, k, w) * k.shape[-1] ** -0.5).softmax(dim=-1)
        weights = F.dropout(weights.to(v.dtype), self.dropout, self.training)
        return self.maps["output"](self.joined(running(weights, w, v))), torch.zeros_like(p)


class Luna(Block):
    """Y_P = attention(P, X, X), Y_X = attention(X, Y_P, Y_P); P <- norm(P + Y_P), X likewise, then
    a feed-forward network on X.

    Ma et al. 2021, eq. 5-7. Causal (eq. 8-10), with w_t = softplus of the scores of P and x_t:
    att_t = softmax(q_t . 1/t sum_{j<=t} k_j w_j^T), y_t = att_t . 1/t sum_{j<=t} w_j v_j^T; P then
    gets no update, which would see the future. The first layer learns P.

    Args:
        projection_length: vectors of P.
        tie_kv: one projection for keys and values of each attention.
    """

    card = Card(
        title="Luna: Linear Unified Nested Attention",
        authors="Ma, Kong, Wang, Zhou, May, Ma, Zettlemoyer",
        year=2021,
        link="https://arxiv.org/abs/2106.01540",
        family="low_rank",
        time="N projection_length d + N d^2",
        memory="N d",
        causality="masked",
        bidirectional=True,
        ops=("attention", "linear_attention"),
        deviations=(
            "norms stand where the recipe puts them; the paper's are behind the sums",
            "projections have no bias, and both attentions have the recipe's heads",
            "decoding step by step is not offered",
        ),
    )

    def __init__(
        self,
        spec: LayerSpec,
        make_mixer: MakeMixer,
        *,
        projection_length: int = 16,
        tie_kv: bool = True,
    ):
        super().__init__(spec, make_mixer)
        if projection_length < 1:
            raise ValueError(f"Luna: projection_length must be at least 1, got {projection_length}")
        dim = spec.dim
        self.first: nn.Parameter | None = None
        self.pack_norm: nn.Module | None = None
        if spec.layer == 0:
            self.first = nn.Parameter(torch.randn(projection_length, dim) * dim**-0.5)
        else:
            # of what the layer before made of P: behind the last layer nothing would read it
            self.pack_norm = make_norm(spec.norm, dim)
        kind = CausalNestedAttention if spec.causal else NestedAttention
        self.attention = kind(spec, tie_kv=tie_kv)
        self.norm, self.ffn_norm = make_norm(spec.norm, dim), make_norm(spec.norm, dim)
        self.dropout = nn.Dropout(spec.dropout)
        self.ffn = feed_forward(dim, spec.ffn_dim, spec.activation, spec.dropout)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None, carry: Any = None
    ) -> tuple[Float[Tensor, "B N D"], Any]:
        if self.first is not None:
            p = self.first.expand(len(x), -1, -1).to(x.dtype)
        elif carry is None:
            raise Unsupported("Luna's layers follow one another: P comes from the layer before")
        else:
            assert self.pack_norm is not None
            p = self.pack_norm(carry)
        x = zero_padding(x, mask)
        pre = self.spec.norm_position == "pre"
        inner = zero_padding(self.norm(x, mask), mask) if pre else x
        y, packed = self.attention(inner, p, mask)
        x = x + self.dropout(y)
        if pre:
            return x + self.dropout(self.ffn(self.ffn_norm(x, mask))), p + packed
        x = self.norm(x, mask)
        return self.ffn_norm(x + self.dropout(self.ffn(x)), mask), p + packed
