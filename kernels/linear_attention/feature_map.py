"""Feature maps phi of linear attention, with their gradients, applied slice by slice by the op.

An op that applies the map itself can apply it again in the backward pass instead of keeping it.
Maps are constants: one with learned tensors is applied outside, with ``feature_map=None``.
Legend: K head width, M features.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import linear

from kernels.linear_attention.slices import slices

LOG2_E = math.log2(math.e)


class FeatureMap(ABC):
    """A map of head vectors ``(B, H, n, K)`` to features ``(B, H, n, M)``.

    ``start`` is the position of the first of the n vectors, for maps that depend on it.
    """

    @abstractmethod
    def width(self, k: int) -> int:
        """M for head width K."""

    @abstractmethod
    def __call__(
        self, x: Float[Tensor, "B H n K"], *, keys: bool, start: int = 0
    ) -> Float[Tensor, "B H n M"]:
        """Features of queries, or of keys."""

    @abstractmethod
    def pull_back(
        self,
        x: Float[Tensor, "B H n K"],
        features: Float[Tensor, "B H n M"],
        grad: Float[Tensor, "B H n M"],
    ) -> Float[Tensor, "B H n K"]:
        """Gradient in x, from the features of x and the gradient in them."""


@dataclass(frozen=True)
class Identity(FeatureMap):
    """``phi(x) = x``."""

    def width(self, k: int) -> int:
        return k

    def __call__(self, x: Tensor, *, keys: bool, start: int = 0) -> Tensor:
        return x

    def pull_back(self, x: Tensor, features: Tensor, grad: Tensor) -> Tensor:
        return grad


@dataclass(frozen=True)
class EluPlusOne(FeatureMap):
    """``phi(x) = elu(x) + 1``: exp(x) below 0, x + 1 above (Katharopoulos et al. 2020, eq. 7)."""

    def width(self, k: int) -> int:
        return k

    def __call__(self, x: Tensor, *, keys: bool, start: int = 0) -> Tensor:
        # elu(x) + 1 as it stands rounds small features to 0
        return x.clamp(max=0).exp_() + x.clamp(min=0)

    def pull_back(self, x: Tensor, features: Tensor, grad: Tensor) -> Tensor:
        return features.clamp(max=1).mul_(grad)


@dataclass(frozen=True)
class Relu(FeatureMap):
    """``phi(x) = relu(W x) + eps``, without W if ``projection`` is None.

    Performer's ReLU kernel (Choromanski et al. 2021, arXiv 2009.14794, section 3).

    Args:
        projection: W, (M, K).
        eps: keeps normalisers positive.
    """

    projection: Float[Tensor, "M K"] | None = None
    eps: float = 0.0

    def width(self, k: int) -> int:
        return k if self.projection is None else self.projection.shape[0]

    def __call__(self, x: Tensor, *, keys: bool, start: int = 0) -> Tensor:
        if self.projection is not None:
            x = x @ self.projection.T.to(x)
        return x.relu() + self.eps

    def pull_back(self, x: Tensor, features: Tensor, grad: Tensor) -> Tensor:
        grad = grad * (features > self.eps)
        return grad if self.projection is None else grad @ self.projection.to(grad)


@dataclass(frozen=True)
class PositiveRandom(FeatureMap):
    """``phi(x) = m^-1/2 (exp(W x' - |x'|^2 / 2 - c) + eps)`` with ``x' = x / K^1/4``.

    FAVOR+ (Choromanski et al. 2021, arXiv 2009.14794, lemma 1 and eq. 5): the mean of
    ``phi(q) . phi(k)`` over normal W is ``exp(q . k / sqrt K)`` up to the constants c.

    A query's c is the largest entry of its own ``W q'``. The keys' c must be one for all keys that
    are summed together, or the attention is biased: ``largest_key`` finds it, or
    ``running_largest_key`` where no key may know of later ones. c cancels in the normalised output
    but for eps, and no gradient goes through it.

    Args:
        projection: W, (M, K).
        eps: keeps normalisers positive.
        shift: c of the keys, (B, H, 1, 1), or (B, H, N, 1) where it runs; 0 if None.
    """

    projection: Float[Tensor, "M K"]
    eps: float = 0.0
    shift: Float[Tensor, "B H _ 1"] | None = None

    def width(self, k: int) -> int:
        return self.projection.shape[0]

    def __call__(self, x: Tensor, *, keys: bool, start: int = 0) -> Tensor:
        exponent = self._project(x)
        # in powers of 2, and m^-1/2 with them
        lowered = x.square().sum(dim=-1, keepdim=True) * (0.5 * LOG2_E * x.shape[-1] ** -0.5)
        lowered = lowered + 0.5 * math.log2(self.projection.shape[0])
        if not keys:
            lowered = lowered + exponent.detach().amax(dim=-1, keepdim=True)
        elif self.shift is not None:
            at = slice(start, start + x.shape[2]) if self.shift.shape[2] > 1 else slice(None)
            lowered = lowered + self.shift[:, :, at].to(x) * LOG2_E
        if torch.is_grad_enabled():
            return (exponent - lowered).exp2() + self._least
        # in place: features are wide, and writing a new tensor takes longer than reading one
        return exponent.sub_(lowered).exp2_().add_(self._least)

    def pull_back(self, x: Tensor, features: Tensor, grad: Tensor) -> Tensor:
        grad = (features - self._least).mul_(grad)
        along = grad @ self._rows(grad)
        return along / LOG2_E - x * (grad.sum(dim=-1, keepdim=True) * x.shape[-1] ** -0.5)

    @property
    def _least(self) -> float:
        """What no feature is below."""
        return self.eps * self.projection.shape[0] ** -0.5

    def _rows(self, like: Tensor) -> Float[Tensor, "M K"]:
        """``log2(e) W / K^1/4``: on a CPU powers of 2 take a third of the time of those of e."""
        return self.projection.to(like) * (LOG2_E * self.projection.shape[1] ** -0.25)

    def _project(self, x: Tensor) -> Tensor:
        """``log2(e) W x'``."""
        return linear(x, self._rows(x))

    @torch.no_grad()
    def largest_key(
        self, k: Float[Tensor, "B H N K"], key_mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H 1 1"]:
        """Largest entry of ``W k'`` over features and real keys; 0 where there is no key."""
        largest = self._largest(k, key_mask).amax(dim=2, keepdim=True)
        return torch.where(largest == -torch.inf, 0, largest)

    @torch.no_grad()
    def running_largest_key(
        self,
        k: Float[Tensor, "B H N K"],
        key_mask: Bool[Tensor, "B N"] | None = None,
        initial: Float[Tensor, "B H"] | None = None,
    ) -> tuple[Float[Tensor, "B H N 1"], Float[Tensor, "B H N"]]:
        """c_t, the largest entry of ``W k'`` up to each position, and its steps ``c_{t-1} - c_t``.

        The steps are the log-decay that rescales the sums so far to the new constant, so that every
        position sees its own c only. Before the first key c is -inf, or ``initial``.
        """
        largest = self._largest(k, key_mask)
        if initial is None:
            initial = torch.full_like(largest[:, :, 0, 0], -torch.inf)
        running = torch.cat([initial[:, :, None], largest[..., 0]], dim=2).cummax(dim=2).values
        before, after = running[:, :, :-1], running[:, :, 1:]
        # with no key so far the sums are empty, and any finite step will do
        step = torch.where(before == -torch.inf, 0, before - after)
        return torch.where(after == -torch.inf, 0, after)[..., None], step

    def _largest(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Largest feature exponent of each key, ``(B, H, N, 1)``, -inf where masked."""
        wide = torch.promote_types(k.dtype, torch.float32)
        with torch.autocast(k.device.type, enabled=False):
            # in parts, as features are wider than keys
            parts = [
                self._project(k[:, :, at].to(wide)).amax(dim=-1, keepdim=True)
                for at in slices(k, self.projection.shape[0])
            ]
        largest = torch.cat(parts, dim=2) / LOG2_E
        if key_mask is not None:
            largest = largest.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        return largest
