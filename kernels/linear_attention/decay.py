"""What lies between two positions of a chunk: nothing but order, a scalar decay, one per channel.

Legend: X batch times heads, n chunks, C chunk, K/V widths; g log-decays <= 0, G their sums from the
start of the chunk. ``e^g`` acts on the state before the key of its position is added.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.linear_attention.feature_map import LOG2_E

# e^FLOOR is 0 in fp64 too, and sums of a chunk of it keep their small addends
FLOOR = -800.0


class Decay:
    """No decay: position i sees j <= i. Base of the others.

    Attributes:
        pairs: ``e^{G_i - G_j}`` for j <= i, else 0: (C, C) or (X, n, C, C).
        total: decay of a whole chunk, broadcast over its state (X, n, K, V).
    """

    def __init__(self, pairs: Tensor, total: Tensor):
        self.pairs, self.total = pairs, total

    def from_start(self, x: Tensor) -> Tensor:
        """``e^{G_i} x_i``."""
        return x

    def to_end(self, x: Tensor) -> Tensor:
        """``e^{G_C - G_i} x_i``."""
        return x

    def add_within_(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Adds what pairs inside each chunk contribute."""
        _add_product_(y, self._weights(q, k), v)

    def within_backward_(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grad: Tensor,
        grads: tuple[Tensor, Tensor, Tensor],
        of_decay: bool,
    ) -> Tensor | None:
        """Adds its gradients to ``grads`` in q, k and v.

        Returns:
            Gradient in G ``(X, n, C, 1 or K)``, if wanted.
        """
        grad_q, grad_k, grad_v = grads
        weights = self._weights(q, k)
        _add_product_(grad_v, weights.mT, grad)
        # over the weights, unless they are needed again
        grad_weights = torch.matmul(grad, v.mT, out=None if of_decay else weights)
        turn = None
        if of_decay:
            # the diagonal has no decay: left out, so that it need not cancel
            share = weights.mul_(grad_weights).tril_(-1)
            turn = (share.sum(dim=-1) - share.sum(dim=-2))[..., None]
        grad_weights *= self.pairs
        _add_product_(grad_q, grad_weights, k)
        _add_product_(grad_k, grad_weights.mT, q)
        return turn

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).mul_(self.pairs)


class NoDecay(Decay):
    def __init__(self, chunk: int, like: Tensor):
        super().__init__(like.new_ones(chunk, chunk).tril_(), like.new_ones(1, 1, 1, 1))


class ScalarDecay(Decay):
    """One decay per head and position.

    Sums are taken in fp64: a difference of two of them must be right after a strong decay too.
    """

    def __init__(self, g: Float[Tensor, "X n C"], like: Tensor):
        # of powers of 2: on a CPU they take a third of the time of those of e
        sums = g.clamp(min=FLOOR).double().cumsum(dim=-1)[..., None] * LOG2_E
        between = (sums - sums.mT).to(like.dtype).clamp_(max=0)
        self.start = sums.exp2().to(like.dtype)
        self.end = (sums[:, :, -1:] - sums).exp2().to(like.dtype)
        super().__init__(between.exp2_().tril_(), self.start[:, :, -1:])

    def from_start(self, x: Tensor) -> Tensor:
        return x * self.start

    def to_end(self, x: Tensor) -> Tensor:
        return x * self.end


class ChannelDecay(Decay):
    """One decay per channel of the keys; C is a power of 2.

    ``e^{G_i - G_j}`` cannot be split into a factor of i and one of j without growing exponents, but
    it can for all i right and all j left of a point between them. So halves, halves of halves...
    down to single positions: each pair is split at one of them, in log2(C) matrix products.
    """

    def __init__(self, g: Float[Tensor, "X n C K"]):
        self.g = g.clamp(min=FLOOR)
        self.start, self.end = up_to(self.g).exp_(), after(self.g).exp_()
        super().__init__(g, self.start[:, :, -1, :, None])

    def from_start(self, x: Tensor) -> Tensor:
        return x * self.start

    def to_end(self, x: Tensor) -> Tensor:
        return x * self.end

    def add_within_(self, y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        for half in self._halves():
            right, left = self._decays(half)
            weights = (_right(q, half) * right) @ (_left(k, half) * left).mT
            _right(y, half).add_(weights @ _left(v, half))
        y += (q * k).sum(dim=-1, keepdim=True) * v

    def within_backward_(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        grad: Tensor,
        grads: tuple[Tensor, Tensor, Tensor],
        of_decay: bool,
    ) -> Tensor | None:
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), grads[2]
        for half in self._halves():
            right, left = self._decays(half)
            q_right, k_left = _right(q, half) * right, _left(k, half) * left
            grad_right = _right(grad, half)
            grad_weights = grad_right @ _left(v, half).mT
            _left(grad_v, half).add_((k_left @ q_right.mT) @ grad_right)
            _right(grad_q, half).addcmul_(grad_weights @ k_left, right)
            _left(grad_k, half).addcmul_(grad_weights.mT @ q_right, left)
        same = (grad * v).sum(dim=-1, keepdim=True)
        grad_v += (q * k).sum(dim=-1, keepdim=True) * grad
        grads[0].add_(grad_q).addcmul_(same, k)
        grads[1].add_(grad_k).addcmul_(same, q)
        return q * grad_q - k * grad_k if of_decay else None

    def _halves(self) -> list[int]:
        chunk = self.g.shape[2]
        return [chunk >> level for level in range(1, chunk.bit_length())]

    def _decays(self, half: int) -> tuple[Tensor, Tensor]:
        """From the middle of each block to the positions right of it, and from those left to it."""
        return up_to(_right(self.g, half)).exp_(), after(_left(self.g, half)).exp_()


def _add_product_(to: Tensor, a: Tensor, b: Tensor) -> None:
    """``to += a @ b``, all ``(X, n, ., .)``, without a buffer for the product."""
    to.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))


def up_to(x: Float[Tensor, "*X C K"]) -> Float[Tensor, "*X C K"]:
    """Sum of x over positions up to each, that one included."""
    c = x.shape[-2]
    return x.new_ones(c, c).tril_() @ x


def before(x: Float[Tensor, "*X C K"]) -> Float[Tensor, "*X C K"]:
    """Sum of x over the positions before each."""
    c = x.shape[-2]
    return x.new_ones(c, c).tril_(-1) @ x


def after(x: Float[Tensor, "*X C K"]) -> Float[Tensor, "*X C K"]:
    """Sum of x over the positions after each."""
    c = x.shape[-2]
    return x.new_ones(c, c).triu_(1) @ x


def _left(x: Tensor, half: int) -> Tensor:
    """Left halves of blocks of 2 ``half`` positions, as a view: ``(X, n, blocks, half, K)``."""
    return x.unflatten(2, (-1, 2, half))[:, :, :, 0]


def _right(x: Tensor, half: int) -> Tensor:
    return x.unflatten(2, (-1, 2, half))[:, :, :, 1]
