"""Linear attention by a feature map: the Transformer as a recurrent network."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import dropout

from kernels.linear_attention import linear_attention
from kernels.linear_attention.feature_map import EluPlusOne, FeatureMap, Relu
from models.card import Card
from models.qkv import QKVMixer

FEATURE_MAPS: dict[str, FeatureMap] = {"elu+1": EluPlusOne(), "relu": Relu()}


class LinearTransformer(QKVMixer):
    """Y_i = phi(q_i) sum_j phi(k_j) v_j^T / (phi(q_i) sum_j phi(k_j) + eps), phi = elu + 1.

    Katharopoulos et al. 2020, eq. 5-7; causal sums run over j <= i (eq. 9-12, 18-20). Nothing is
    scaled by 1 / sqrt K.

    Args:
        feature_map: phi: ``elu+1``, or ``relu``.
        eps: added to the normaliser.
    """

    card = Card(
        title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        authors="Katharopoulos, Vyas, Pappas, Fleuret",
        year=2020,
        link="https://arxiv.org/abs/2006.16236",
        family="linear",
        time="N d^2",
        memory="N d",
        causality="masked",
        bidirectional=True,
        recurrent=True,
        cross=True,
        ops=("linear_attention",),
        deviations=(
            "dropout acts on the mixed features: there are no attention weights",
            "with recipe.positions=rope queries and keys are turned before phi; RoFormer (eq. 19) "
            "turns phi of them, in the numerator alone",
        ),
    )

    def __init__(self, dim: int, *, feature_map: str = "elu+1", eps: float = 1e-6, **standard: Any):
        super().__init__(dim, **standard)
        if feature_map not in FEATURE_MAPS:
            raise ValueError(
                f"LinearTransformer: feature_map must be one of {', '.join(FEATURE_MAPS)}, "
                f"got '{feature_map}'"
            )
        self.phi, self.eps = FEATURE_MAPS[feature_map], eps

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        y, _ = linear_attention(
            q, k, v, causal=self.causal, feature_map=self.phi, key_mask=mask, eps=self.eps
        )
        return dropout(y, self.dropout, self.training)

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, _ = self.project(x, mask)
        weights = self.phi(q, keys=False) @ self.phi(k, keys=True).mT
        if mask is not None:
            weights = weights.masked_fill(~mask[:, None, None, :], 0)
        if self.causal:
            weights = weights.tril()
        return weights / (weights.sum(-1, keepdim=True) + self.eps)

    def attend_state(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if not self.causal:
            return super().attend_state(batch, like)
        size = (batch, self.heads, self.head_dim)
        return like.new_zeros(*size, self.head_dim), like.new_zeros(size)

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], Any]:
        return linear_attention(
            q, k, v, causal=True, feature_map=self.phi, initial_state=state, eps=self.eps
        )
