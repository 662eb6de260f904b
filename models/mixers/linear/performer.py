"""Linear attention whose feature map is a random estimate of the softmax kernel: FAVOR+."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import dropout

from kernels.linear_attention import linear_attention
from kernels.linear_attention.feature_map import FeatureMap, PositiveRandom, Relu
from models.card import Card
from models.qkv import QKVMixer


def orthogonal_gaussian(features: int, width: int, scaling: float) -> Float[Tensor, "M K"]:
    """Rows of normal directions, orthogonal within blocks of ``width`` (section 2.4 of the paper).

    Args:
        features: rows M.
        width: columns K.
        scaling: 0: row lengths as those of normal vectors; 1: all sqrt(K).
    """
    blocks = []
    for start in range(0, features, width):
        q, r = torch.linalg.qr(torch.randn(width, width))
        # the signs make the orthogonal matrix uniform
        blocks.append((q * r.diagonal().sign()).T[: features - start])
    if scaling == 0:
        lengths = torch.randn(features, width).norm(dim=1, keepdim=True)
    else:
        lengths = torch.full((features, 1), math.sqrt(width))
    return lengths * torch.cat(blocks)


@dataclass
class Sums:
    """State of a decoding Performer: the sums, and the stabiliser they are relative to."""

    sums: tuple[Tensor, Tensor]
    largest: Tensor | None


class Performer(QKVMixer):
    """phi(x) = m^-1/2 (exp(W x' - |x'|^2 / 2 - c) + eps), x' = x / K^1/4; then linear attention.

    Choromanski et al. 2021, lemma 1 and eq. 5: E[phi(q) . phi(k)] = exp(q . k / sqrt K). The keys'
    constant c is one for all real keys (causal: the largest so far, older sums rescaled), or the
    ratio would be biased.

    Args:
        nb_features: rows m of W.
        kernel: ``softmax``, or ``relu``: phi(x) = relu(W x) + eps.
        ortho_scaling: 0: rows of W are as long as normal vectors; 1: all sqrt(K).
        redraw: draw a new W every ``redraw_interval`` steps of training.
        redraw_interval: steps.
        eps: added to every feature.
    """

    card = Card(
        title="Rethinking Attention with Performers",
        authors="Choromanski, Likhosherstov, Dohan, Song, Gane, Sarlos, Hawkins, Davis, Mohiuddin, "
        "Kaiser, Belanger, Colwell, Weller",
        year=2021,
        link="https://arxiv.org/abs/2009.14794",
        family="linear",
        time="N m d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        recurrent=True,
        cross=True,
        randomised=True,
        ops=("linear_attention",),
        smooth={"eps": 0.0},
        deviations=(
            "no gradient flows through the constant c, which cancels but for eps",
            "features are redrawn every redraw_interval steps, which the paper leaves open",
            "dropout acts on the mixed features: there are no attention weights",
            "with recipe.positions=rope queries and keys are turned before phi; RoFormer (eq. 19) "
            "turns phi of them, in the numerator alone",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        nb_features: int = 256,
        kernel: str = "softmax",
        ortho_scaling: float = 0.0,
        redraw: bool = True,
        redraw_interval: int = 1000,
        eps: float = 1e-4,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if kernel not in ("softmax", "relu"):
            raise ValueError(f"Performer: kernel must be softmax or relu, got '{kernel}'")
        if nb_features < 1 or redraw_interval < 1:
            raise ValueError("Performer: nb_features and redraw_interval must be at least 1")
        if ortho_scaling not in (0, 1):
            raise ValueError(f"Performer: ortho_scaling must be 0 or 1, got {ortho_scaling}")
        self.nb_features, self.kernel, self.eps = nb_features, kernel, eps
        self.ortho_scaling, self.redraw = ortho_scaling, redraw
        self.redraw_interval = redraw_interval
        self.projection: Tensor
        self.register_buffer("projection", self._draw())

    def _draw(self) -> Float[Tensor, "M K"]:
        return orthogonal_gaussian(self.nb_features, self.head_dim, self.ortho_scaling)

    def on_step(self, step: int) -> None:
        if self.redraw and self.training and step % self.redraw_interval == 0:
            self.projection.copy_(self._draw())

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        phi, decay = self._features(k, mask)
        y, _ = linear_attention(
            q, k, v, causal=self.causal, feature_map=phi, log_decay=decay, key_mask=mask, eps=0.0
        )
        return dropout(y, self.dropout, self.training)

    def _features(
        self, k: Tensor, mask: Tensor | None, largest: Tensor | None = None
    ) -> tuple[FeatureMap, Tensor | None]:
        """The feature map for these keys, and how the sums so far shrink with each key."""
        if self.kernel == "relu":
            return Relu(self.projection, self.eps), None
        phi = PositiveRandom(self.projection, self.eps)
        if not self.causal:
            shift = phi.largest_key(k, mask)
            return PositiveRandom(self.projection, self.eps, shift), None
        shift, decay = phi.running_largest_key(k, mask, largest)
        return PositiveRandom(self.projection, self.eps, shift), decay

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, _ = self.project(x, mask)
        phi, decay = self._features(k, mask)
        weights = phi(q, keys=False) @ phi(k, keys=True).mT
        if decay is not None:
            # what the key at j weighs at i has shrunk by every step between
            shrunk = decay.cumsum(-1)
            weights = weights * (shrunk[..., :, None] - shrunk[..., None, :]).tril().exp()
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, None, :], 0)
        if self.causal:
            weights = weights.tril()
        total = weights.sum(-1, keepdim=True)
        # a row that sees nothing mixes nothing
        return weights / torch.where(total == 0, 1, total)

    def attend_state(self, batch: int, like: Tensor) -> Sums:
        if not self.causal:
            return super().attend_state(batch, like)
        size = (batch, self.heads, self.nb_features)
        sums = like.new_zeros(*size, self.head_dim), like.new_zeros(size)
        if self.kernel == "relu":
            return Sums(sums, None)
        return Sums(sums, like.new_full((batch, self.heads), -torch.inf))

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], Sums]:
        phi, decay = self._features(k, None, state.largest)
        largest = phi.shift[:, :, 0, 0] if isinstance(phi, PositiveRandom) else None  # type: ignore[index]
        y, sums = linear_attention(
            q, k, v, causal=True, feature_map=phi, log_decay=decay, initial_state=state.sums,
            eps=0.0,
        )  # fmt: skip
        return y, Sums(sums, largest)  # type: ignore[arg-type]
