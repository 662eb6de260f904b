"""Mega: a moving average, then gated attention of one head, whole or in chunks."""

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
    ops=("vandermonde_kernel", "long_conv", "attention"),
    length_bound=("bias",),
    deviations=(
        "the moving average is not cut at a number of taps",
        "decoding step by step is not offered",
    ),
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
        if self.bias is not None and self.chunk is None and x.shape[1] > self.reach:
            raise Unsupported(
                f"Mega was built for at most {self.reach} positions, got {x.shape[1]}: its bias "
                "fixes the length; train it at that length, or with rel_bias=rotary"
            )
        pre = self.spec.norm_position == "pre"
        x = zero_padding(x, mask)
        inner = zero_padding(self.norm(x, mask), mask) if pre else x
        averaged = F.silu(self.average(inner, mask)).to(inner.dtype)
        z, gamma, own, phi = self.into(averaged).split(self.sizes, dim=-1)
        mixed = self._attend(F.silu(z), F.silu(self.value(inner)), mask)
        hidden = F.silu(own + self.out(F.silu(gamma) * mixed))
        x = x + phi.sigmoid() * (self.dropout(hidden) - x)
        if pre:
            return x + self.dropout(self.ffn(self.ffn_norm(x, mask))), carry
        x = self.norm(x, mask)
        return self.ffn_norm(x + self.dropout(self.ffn(x)), mask), carry

    def _attend(
        self, z: Float[Tensor, "B N Z"], v: Float[Tensor, "B N V"], mask: Tensor | None
    ) -> Float[Tensor, "B N V"]:
        batch, n, _ = z.shape
        chunk = min(self.chunk or n, n)
        causal, softmax = self.spec.causal, self.function == "softmax"
        q, k = ((z * self.scale[i] + self.shift[i])[:, None] for i in range(2))
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mask = mask_of_chunks(mask, batch, n, chunk, z.device)
        q, k, v = (into_chunks(x, chunk) for x in (q, k, v[:, None]))
        if not softmax:
            q = q / visible_keys(mask, chunk, causal, like=q)
        table = None if self.bias is None else self.bias[None]
        y = attention(
            q.to(v.dtype), k.to(v.dtype), v, causal=causal, key_mask=mask,
            score=Score(relative=table, activation=self.function),
            scale=z.shape[-1] ** -0.5 if softmax else 1.0,
            dropout_p=self.spec.mixer_dropout if self.training else 0.0,
        )  # fmt: skip
        return out_of_chunks(y, batch, n)[:, 0]


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
