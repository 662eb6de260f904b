"""Luna: attention through a short second sequence that goes from layer to layer."""

from dataclasses import dataclass
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


# sum k_j w_j^T (B, H, K, L) and sum w_j v_j^T (B, H, L, K) over the tokens so far
Sums = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RunningSums:
    """State of a decoding ``CausalNestedAttention``: the queries of P, which no token changes, and
    what ``count`` tokens sum up to."""

    queries: Float[Tensor, "1 H L K"]
    count: int
    sums: Sums


class CausalNestedAttention(_Projections):
    """Running means in the place of the packed sequence (eq. 8-10)."""

    def __init__(self, spec: LayerSpec, *, tie_kv: bool):
        values = [] if tie_kv else ["value"]
        super().__init__(spec, "pack_query", "pack_key", "query", "key", "output", *values)
        self.value = "key" if tie_kv else "value"

    def forward(
        self, x: Float[Tensor, "B N D"], p: Float[Tensor, "B L D"], mask: Tensor | None
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B L D"]]:
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None].to(x.dtype)
        if mask is not None:
            steps = mask.cumsum(1).clamp(min=1)[:, None, :, None].to(x.dtype)
        y, _ = self._read(x, self.split("pack_query", p), steps, mask)
        return y, torch.zeros_like(p)

    def init_state(self, p: Float[Tensor, "1 L D"], batch: int) -> RunningSums:
        """The state before the first token."""
        queries = self.split("pack_query", p)
        _, heads, length, width = queries.shape
        keys = queries.new_zeros(batch, heads, width, length)
        return RunningSums(queries, 0, (keys, torch.zeros_like(keys.mT)))

    def step(
        self, x: Float[Tensor, "B 1 D"], state: RunningSums
    ) -> tuple[Float[Tensor, "B 1 D"], RunningSums]:
        """One token, and the next state."""
        count = state.count + 1
        y, sums = self._read(x, state.queries, count, None, state.sums)
        return y, RunningSums(state.queries, count, sums)

    def _read(
        self,
        x: Float[Tensor, "B N D"],
        queries: Float[Tensor, "#B H L K"],
        steps: Tensor | int,
        mask: Tensor | None,
        before: Sums | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Sums]:
        """y and the sums after x, from those before it; ``steps``: how many tokens each position
        sees."""
        q, k, v = (self.split(name, x) for name in ("query", "key", self.value))
        scores = self.split("pack_key", x) @ queries.mT
        # log 2 makes the softplus of a score of 0 one
        w = F.softplus(scores * k.shape[-1] ** -0.5, beta=0.6931471805599453).to(k.dtype)

        def running(
            q: Tensor, k: Tensor, v: Tensor, before: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            y, (after, _) = linear_attention(
                q, k, v, causal=True, key_mask=mask, normalise=False,
                initial_state=None if before is None else (before, None),
            )  # fmt: skip
            return y / steps, after

        keys, values = before or (None, None)
        scores, keys = running(q, k, w, keys)
        weights = (scores * k.shape[-1] ** -0.5).softmax(dim=-1)
        weights = F.dropout(weights.to(v.dtype), self.dropout, self.training)
        y, values = running(weights, w, v, values)
        return self.maps["output"](self.joined(y)), (keys, values)


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
        recurrent=True,
        ops=("attention", "linear_attention"),
        deviations=(
            "norms stand where the recipe puts them; the paper's are behind the sums",
            "projections have no bias, and both attentions have the recipe's heads",
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
        dim, self.pre = spec.dim, spec.norm_position == "pre"
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

    def pack(self, carry: Float[Tensor, "B L D"] | None) -> Float[Tensor, "#B L D"]:
        """P of this layer, from what the layer before made of it. In the causal form, which adds
        nothing to P, it is also the carry of the layer behind."""
        if self.first is not None:
            return self.first[None]
        if carry is None:
            raise Unsupported("Luna's layers follow one another: P comes from the layer before")
        assert self.pack_norm is not None
        return self.pack_norm(carry)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None, carry: Any = None
    ) -> tuple[Float[Tensor, "B N D"], Any]:
        p = self.pack(carry).expand(len(x), -1, -1).to(x.dtype)
        x = zero_padding(x, mask)
        inner = zero_padding(self.norm(x, mask), mask) if self.pre else x
        y, packed = self.attention(inner, p, mask)
        return self._around(x, y, mask), p + packed

    def _around(
        self, x: Float[Tensor, "B N D"], y: Float[Tensor, "B N D"], mask: Tensor | None
    ) -> Float[Tensor, "B N D"]:
        """What comes of x and of its attention y: the residual branches."""
        x = x + self.dropout(y)
        if self.pre:
            return x + self.dropout(self.ffn(self.ffn_norm(x, mask)))
        x = self.norm(x, mask)
        return self.ffn_norm(x + self.dropout(self.ffn(x)), mask)

    # -- decoding ------------------------------------------------------------------------------

    def init_state(self, batch: int, carry: Float[Tensor, "1 L D"] | None = None) -> RunningSums:
        """The state before the first token; ``carry`` as in ``forward``: of the layer before, its
        ``pack``."""
        if not isinstance(self.attention, CausalNestedAttention):
            raise Unsupported("Luna decodes step by step only with causal=true")
        return self.attention.init_state(self.pack(carry), batch)

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        assert isinstance(self.attention, CausalNestedAttention)
        x = x_t[:, None]
        y, state = self.attention.step(self.norm(x) if self.pre else x, state)
        return self._around(x, y, None)[:, 0], state
