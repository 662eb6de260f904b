"""How the eager backend reads its arguments: slice by slice, features made when they are needed."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.linear_attention.feature_map import FeatureMap
from kernels.linear_attention.slices import hide, slices, wide


@dataclass(frozen=True)
class Plan:
    """What is not a tensor, and how slices are read. All that it returns is at least fp32."""

    feature_map: FeatureMap
    normalise: bool
    eps: float

    def slices(self, x: Float[Tensor, "B H N K"], chunk: int = 1) -> list[slice]:
        """Slices of whole chunks that x is read in; the last one may end inside a chunk."""
        return slices(x, self.feature_map.width(x.shape[3]), chunk)

    def outputs(
        self, q: Float[Tensor, "B H N K"], v: Float[Tensor, "B H M V"]
    ) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N _"]]:
        """Room for outputs and their normaliser."""
        batch, heads, n, _ = q.shape
        # heads inside positions, as fused attention returns them: joining them copies nothing
        y = v.new_empty(batch, n, heads, v.shape[-1]).transpose(1, 2)
        dtype = torch.promote_types(v.dtype, torch.float32)
        return y, v.new_empty(batch, heads, n, int(self.normalise), dtype=dtype)

    def queries(
        self, q: Float[Tensor, "B H N K"], at: slice
    ) -> tuple[Float[Tensor, "B H n K"], Float[Tensor, "B H n F"]]:
        """Queries and their features."""
        q = wide(q[:, :, at])
        return q, self.feature_map(q, keys=False, start=at.start)

    def keys(
        self, k: Float[Tensor, "B H N K"], key_mask: Bool[Tensor, "B N"] | None, at: slice
    ) -> tuple[Float[Tensor, "B H n K"], Float[Tensor, "B H n F"]]:
        """Keys and their features; those of hidden keys are 0."""
        k = wide(k[:, :, at])
        return k, hide(self.feature_map(k, keys=True, start=at.start), key_mask, at)

    def values(
        self, v: Float[Tensor, "B H N V"], key_mask: Bool[Tensor, "B N"] | None, at: slice
    ) -> Float[Tensor, "B H n V"]:
        """Values, without what hidden keys hold."""
        return hide(wide(v[:, :, at]), key_mask, at)

    def read(
        self, sums: Float[Tensor, "B H n V1"]
    ) -> tuple[Float[Tensor, "B H n V"], Float[Tensor, "B H n _"]]:
        """Outputs from sums, divided by their last column; and what they were divided by."""
        if not self.normalise:
            return sums, sums[..., :0]
        normaliser = sums[..., -1:] + self.eps
        normaliser = torch.where(normaliser == 0, 1, normaliser)
        return sums[..., :-1] / normaliser, normaliser

    def grad_sums(
        self,
        grad: Float[Tensor, "B H N V"],
        y: Float[Tensor, "B H N V"],
        normaliser: Float[Tensor, "B H N _"],
        at: slice,
    ) -> Float[Tensor, "B H n V1"]:
        """Gradient in the sums, from that in the outputs."""
        grad = wide(grad[:, :, at])
        if not self.normalise:
            return grad
        grad = grad / normaliser[:, :, at]
        return torch.cat([grad, -(grad * y[:, :, at]).sum(dim=-1, keepdim=True)], dim=-1)
