"""Mega: a moving average, then gated attention of one head, whole or in chunks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.attention import attention
from kernels.attention.score import Activation, Score
from kernels.errors import Unsupported
from models.block import Block, MakeMixer
from models.cache import KeyValueCache
from models.card import Card
from models.chunks import into_chunks, mask_of_chunks, out_of_chunks
from models.moving_average import MovingAverage
from models.norm import make_norm
from models.padding import zero_padding
from models.rotary import Rotary
from models.spec import LayerSpec

CARD = Card(
    title="Mega: Moving Average Equipped Gated Attention",
    authors="Ma, Zhou, Kong, He, Gui, Neubig, May, Zettlemoyer",
    year=2023,
    link="https://arxiv.org/abs/2209.10655",
    family="exact",
    time="N^2 d + N log N d",
    memory="N d",
    causality="masked",
    bidirectional=True,
    recurrent=True,
    ops=("vandermonde_kernel", "long_conv", "attention"),
    length_bound=("bias",),
    deviations=("the moving average is not cut at a number of taps",),
)


class Mega(Block):
    """X' = silu(EMA(X)), Q, K from silu(X' W), V = silu(X W), O = attention(Q, K, V),
    H = silu(X' W + (gamma * O) U), Y = X + phi * (H - X), then a feed-forward network.

    Ma et al. 2023, eq. 6-14. X is normed first where the recipe is pre-norm. With laplace the
    scores are divided by the number of visible keys and become weights one by one (eq. 17).

    Args:
        n_dim: states of each channel of the moving average.
        z_dim: width of queries and keys.
        h_dim: width of values and gates; None: twice the model's.
        attention_function: ``softmax`` | ``laplace``.
        rel_bias: ``simple`` (a learned number for each distance) | ``rotary``.
    """

    card = CARD
    chunk: int | None = None

    rotary: Rotary | None
    bias: nn.Parameter | None

    def __init__(
        self,
        spec: LayerSpec,
        make_mixer: MakeMixer,
        *,
        n_dim: int = 16,
        z_dim: int = 64,
        h_dim: int | None = None,
        attention_function: Activation = "softmax",
        rel_bias: str = "simple",
    ):
        super().__init__(spec, make_mixer)
        dim, hidden = spec.dim, h_dim or 2 * spec.dim
        self.pre = spec.norm_position == "pre"
        if attention_function not in ("softmax", "laplace"):
            raise ValueError(
                f"Mega: attention_function must be softmax or laplace, got '{attention_function}'"
            )
        if rel_bias not in ("simple", "rotary"):
            raise ValueError(f"Mega: rel_bias must be simple or rotary, got '{rel_bias}'")
        if z_dim < 1 or hidden < 1:
            raise ValueError("Mega: z_dim and h_dim must be at least 1")
        self.function = attention_function
        self.norm = make_norm(spec.norm, dim)
        self.average = MovingAverage(dim, states=n_dim, causal=spec.causal)
        self.value = nn.Linear(dim, hidden)
        # Z, gamma, what H is made of beside the attention, phi: of one product
        self.into = nn.Linear(dim, sum((z_dim, hidden, dim, dim)))
        self.sizes = (z_dim, hidden, dim, dim)
        self.out = nn.Linear(hidden, dim, bias=False)
        self.scale = nn.Parameter(torch.randn(2, z_dim) * 0.02 + 1)
        self.shift = nn.Parameter(torch.zeros(2, z_dim))
        self.reach = self.chunk or spec.max_len
        self.rotary = self.bias = None
        if rel_bias == "rotary":
            self.rotary = Rotary(z_dim)
        else:
            self.bias = nn.Parameter(torch.randn(2 * self.reach - 1) * 0.02)
        self.dropout = nn.Dropout(spec.dropout)
        self.ffn_norm = make_norm(spec.norm, dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, spec.ffn_dim), nn.SiLU(), nn.Dropout(spec.dropout),
            nn.Linear(spec.ffn_dim, dim),
        )  # fmt: skip

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None, carry: Any = None
    ) -> tuple[Float[Tensor, "B N D"], Any]:
        self._check_length(x.shape[1])
        x = zero_padding(x, mask)
        inner = zero_padding(self.norm(x, mask), mask) if self.pre else x
        z, *gates = self._into(self.average(inner, mask), inner)
        mixed = self._attend(z, F.silu(self.value(inner)), mask)
        return self._around(x, mixed, gates, mask), carry

    def _check_length(self, n: int) -> None:
        if self.bias is not None and self.chunk is None and n > self.reach:
            raise Unsupported(
                f"Mega was built for at most {self.reach} positions, got {n}: its bias "
                "fixes the length; train it at that length, or with rel_bias=rotary"
            )

    def _into(
        self, averaged: Float[Tensor, "B N D"], like: Tensor
    ) -> tuple[Float[Tensor, "B N _"], ...]:
        """Z, gamma, what H is made of beside the attention, and phi."""
        z, *gates = self.into(F.silu(averaged).to(like.dtype)).split(self.sizes, dim=-1)
        return F.silu(z), *gates

    def _around(
        self,
        x: Float[Tensor, "B N D"],
        mixed: Float[Tensor, "B N V"],
        gates: Sequence[Tensor],
        mask: Tensor | None,
    ) -> Float[Tensor, "B N D"]:
        """What comes of x and of its attention O: the gates, then the feed-forward network."""
        gamma, own, phi = gates
        hidden = F.silu(own + self.out(F.silu(gamma) * mixed))
        x = x + phi.sigmoid() * (self.dropout(hidden) - x)
        if self.pre:
            return x + self.dropout(self.ffn(self.ffn_norm(x, mask)))
        x = self.norm(x, mask)
        return self.ffn_norm(x + self.dropout(self.ffn(x)), mask)

    def _attend(
        self, z: Float[Tensor, "B N Z"], v: Float[Tensor, "B N V"], mask: Tensor | None
    ) -> Float[Tensor, "B N V"]:
        batch, n, _ = z.shape
        chunk = min(self.chunk or n, n)
        mask = mask_of_chunks(mask, batch, n, chunk, z.device)
        z, v = (into_chunks(x[:, None], chunk) for x in (z, v))
        q, k = self._queries_and_keys(z)
        if self.function != "softmax":
            q = q / visible_keys(mask, chunk, self.spec.causal, like=q)
        y = self._attention(q, k, v, causal=self.spec.causal, mask=mask)
        return out_of_chunks(y, batch, n)[:, 0]

    def _queries_and_keys(
        self, z: Float[Tensor, "C 1 c Z"], start: int = 0
    ) -> tuple[Float[Tensor, "C 1 c Z"], Float[Tensor, "C 1 c Z"]]:
        """Those of a chunk's positions from ``start`` on."""
        q, k = (z * self.scale[i] + self.shift[i] for i in range(2))
        if self.rotary is None:
            return q, k
        return self.rotary(q, start=start), self.rotary(k, start=start)

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None = None
    ) -> Float[Tensor, "C 1 c V"]:
        softmax = self.function == "softmax"
        table = None if self.bias is None else self.bias[None]
        return attention(
            q.to(v.dtype), k.to(v.dtype), v, causal=causal, key_mask=mask,
            score=Score(relative=table, activation=self.function),
            scale=q.shape[-1] ** -0.5 if softmax else 1.0,
            dropout_p=self.spec.mixer_dropout if self.training else 0.0,
        )  # fmt: skip

    # -- decoding: the state of the average, and the keys and values of the chunk --------------

    def init_state(self, batch: int) -> tuple[Float[Tensor, "B D S"], KeyValueCache]:
        if not self.spec.causal:
            raise Unsupported(f"{type(self).__name__} decodes step by step only with causal=true")
        average = self.average.init_state(batch)
        return average, self._empty(batch, average)

    def _empty(self, batch: int, like: Tensor) -> KeyValueCache:
        z_dim, hidden = self.sizes[:2]
        return KeyValueCache(
            like.new_empty(batch, 1, 0, z_dim), like.new_empty(batch, 1, 0, hidden)
        )

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        x, (average, cache) = x_t[:, None], state
        inner = self.norm(x) if self.pre else x
        averaged, average = self.average.step(inner[:, 0], average)
        z, *gates = self._into(averaged[:, None], inner)
        v = F.silu(self.value(inner))[:, None]
        if cache.count == self.chunk:
            # a full chunk is over: the token starts its own
            cache = self._empty(len(x), v)
        self._check_length(cache.count + 1)
        q, k = self._queries_and_keys(z[:, None], start=cache.count)
        cache = cache.append(k.to(v.dtype), v)
        if self.function != "softmax":
            q = q / cache.count
        mixed = self._attention(q, cache.keys, cache.values, causal=False)[:, 0]
        return self._around(x, mixed, gates, None)[:, 0], (average, cache)


class MegaChunk(Mega):
    """Mega with attention inside chunks; the moving average runs over the whole sequence.

    Ma et al. 2023, section 3.5.

    Args:
        chunk: positions of a chunk.
        **mega: the knobs of ``Mega``.
    """

    card = replace(CARD, family="sparse", time="N chunk d + N log N d", length_bound=())

    def __init__(
        self,
        spec: LayerSpec,
        make_mixer: MakeMixer,
        *,
        chunk: int = 128,
        n_dim: int = 16,
        z_dim: int = 64,
        h_dim: int | None = None,
        attention_function: Activation = "softmax",
        rel_bias: str = "simple",
    ):
        if chunk < 1:
            raise ValueError(f"MegaChunk: chunk must be at least 1, got {chunk}")
        self.chunk = chunk
        super().__init__(
            spec, make_mixer, n_dim=n_dim, z_dim=z_dim, h_dim=h_dim,
            attention_function=attention_function, rel_bias=rel_bias,
        )  # fmt: skip


def visible_keys(
    mask: Bool[Tensor, "C c"] | None, chunk: int, causal: bool, *, like: Tensor
) -> Float[Tensor, "#C 1 #c 1"]:
    """How many keys each query sees, at least 1."""
    real = torch.ones(1, chunk, device=like.device) if mask is None else mask.float()
    count = real.cumsum(1) if causal else real.sum(1, keepdim=True)
    return count.clamp(min=1)[:, None, :, None].to(like.dtype)
