"""Tiny sound mixers, a block and a backbone in plain torch, for tests of what is around them."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kernels.errors import Unsupported
from models.backbone import Backbone, MakeBlock
from models.block import Block, MakeMixer
from models.cache import KeyValueCache
from models.card import Card
from models.mixer import Mixer
from models.padding import zero_padding
from models.qkv import QKVMixer
from models.spec import LayerSpec

CARD = Card(
    title="A specimen", authors="Nobody", year=2020, link="https://example.org", family="exact",
    time="N^2 d", memory="N^2", causality="masked", bidirectional=True, recurrent=True, cross=True,
)  # fmt: skip


class Sound(QKVMixer):
    """Dense softmax attention with a cache."""

    card = CARD

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        score = q @ k.mT / math.sqrt(q.shape[-1])
        keep = torch.ones(score.shape[-2:], dtype=torch.bool)[None, None]
        if self.causal:
            keep = keep.tril(score.shape[-1] - score.shape[-2])
        if mask is not None:
            keep = keep & mask[:, None, None]
        return torch.where(keep, score.masked_fill(~keep, -1e30).softmax(-1), 0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return torch.dropout(self.weights(q, k, mask), self.dropout, self.training) @ v

    def reference_matrix(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, _, mask = self.project(x, mask)
        return self.weights(q, k, mask)

    def attend_state(self, batch: int, like: Tensor) -> KeyValueCache:
        empty = like.new_zeros(batch, self.heads, 0, self.head_dim)
        return KeyValueCache(empty, empty)

    def attend_step(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = state.append(k, v)
        return self.attend(q, state.keys, state.values, None), state


class SoundDecay(Mixer):
    """h_t = a h_{t-1} + w x_t: free form, causal only, with a state; ``order`` is a knob."""

    card = replace(
        CARD, family="recurrent", time="N d^2", memory="N d", causality="native",
        bidirectional=False, cross=False,
    )  # fmt: skip

    def __init__(self, dim: int, *, order: int = 1, **standard: Any):
        super().__init__(dim, **standard)
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.order = order
        self.decay = nn.Parameter(torch.rand(dim))
        self.inner = nn.Linear(dim, dim)

    def forward(self, x, mask=None, *, context=None, context_mask=None, state=None):  # type: ignore[override]
        self.check(x, mask, context)
        drive = self.inner(zero_padding(x, mask))
        drive = torch.dropout(zero_padding(drive, mask), self.dropout, self.training)
        h = self.init_state(len(x)).to(x) if state is None else state
        outputs = []
        for u in drive.unbind(1):
            h = torch.sigmoid(self.decay) * h + u
            outputs.append(h)
        y = torch.stack(outputs, 1)
        return y if state is None else (y, h)

    def init_state(self, batch: int) -> Tensor:
        return self.decay.new_zeros(batch, self.dim)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.sigmoid(self.decay) * state + self.inner(x_t)
        return h, h


class SoundBlock(Block):
    """Attention and nothing else, without a norm: a block with a card of its own."""

    card = replace(CARD, recurrent=False, cross=False)

    def __init__(self, spec: LayerSpec, make_mixer: MakeMixer):
        super().__init__(spec, make_mixer)
        self.mixer = make_mixer(spec)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, x, mask, carry=None):
        return x + self.dropout(self.mixer(x, mask)), carry


class SoundBackbone(Backbone):
    """Means of neighbours, then a block: half as many positions go out as come in."""

    card = replace(CARD, family="whole_model", causality="no", recurrent=False, cross=False)

    def __init__(self, spec: LayerSpec, make_block: MakeBlock):
        super().__init__(spec, make_block)
        if spec.causal:
            raise Unsupported("SoundBackbone looks one position ahead; choose a task that may")
        self.block = make_block(spec)

    def forward(self, x, mask, *, tokens=None):
        x, weight = zero_padding(x, mask), mask.to(x.dtype)
        pairs, weights = (
            nn.functional.pad(z, (0, 0, 0, z.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
            for z in (x, weight[..., None])
        )
        mask = weights[..., 0] > 0
        return self.block(pairs / weights.clamp(min=1), mask)[0], mask


# -- what models.build must refuse or host ------------------------------------------------------


class NeedsAWindow(Sound):
    def __init__(self, dim: int, *, window: int, **standard: Any):
        super().__init__(dim, **standard)


class HasNoCard(Mixer):
    pass


class CrossBackbone(Backbone):
    cross = True
